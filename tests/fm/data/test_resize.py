import numpy as np
import pytest
from PIL import Image

from fm.data.resize import RESIZE


@pytest.mark.parametrize("method", RESIZE)
@pytest.mark.parametrize("size", [(64, 48), (17, 90), (5, 5), (32, 32)])
def test_every_method_gives_a_square_of_the_size(method, size):
    image = Image.new("RGB", size, (10, 200, 30))
    result = RESIZE[method](image, 16)
    assert result.size == (16, 16) and result.mode == "RGB"
    assert (np.asarray(result) == (10, 200, 30)).all()


@pytest.mark.parametrize("method", RESIZE)
def test_a_picture_of_the_size_is_left_alone(method):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert (np.asarray(RESIZE[method](Image.fromarray(pixels), 16)) == pixels).all()


def test_box_is_the_mean_of_each_area():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    means = pixels.reshape(8, 4, 8, 8, 3).mean((1, 3))
    # Pillow rounds after each of its two passes, so by half a level twice.
    assert np.abs(np.asarray(RESIZE["box"](Image.fromarray(pixels), 8)) - means).max() <= 1


def test_center_crop_keeps_the_middle_and_the_proportions():
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80] = 255
    assert np.asarray(RESIZE["center-crop"](Image.fromarray(pixels), 40)).min() == 255
    squeezed = np.asarray(RESIZE["center-crop"](Image.fromarray(pixels), 10))
    assert squeezed[:, 1:-1].min() > 250

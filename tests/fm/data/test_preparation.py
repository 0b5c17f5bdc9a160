import io

import numpy as np
import pydantic
import pytest
from PIL import Image

from fm.data.preparation import Preparation, encode, prepare


def test_a_picture_becomes_square_pixels(png):
    pixels, size = prepare(png(0, 24, 20), Preparation(size=8))
    assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8 and size == (24, 20)


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_encodings_are_lossless(encoding, png):
    pixels, _ = prepare(png(1), Preparation(size=12))
    data, start = encode(pixels, encoding)
    back = np.load(io.BytesIO(data)) if encoding == "raw" else np.asarray(Image.open(io.BytesIO(data)))
    assert (back == pixels).all()
    assert encoding == "png" or data[start:] == pixels.tobytes()


def test_a_raw_sample_is_the_file_that_numpy_writes(png):
    for size in (12, 64):
        pixels, _ = prepare(png(1), Preparation(size=size))
        file = io.BytesIO()
        np.save(file, pixels)
        assert encode(pixels, "raw")[0] == file.getvalue()


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 3},
        {"size": 2000},
        {"holdout": 0},
        {"holdout": 1.0},
        {"shard_images": 0},
        {"encoding": "jpg"},
        {"exif": "turn"},
        {"alpha": "black"},
    ],
)
def test_ranges(wrong):
    with pytest.raises(pydantic.ValidationError):
        Preparation(**wrong)


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(pydantic.ValidationError, match="did you mean 'center-crop'"):
        Preparation(method="centre-crop")


def test_the_form_shows_the_methods_as_choices():
    assert Preparation.model_json_schema()["properties"]["method"]["enum"] == ["box", "center-crop", "area", "lanczos"]


def test_what_is_asked_of_exif_and_transparency_is_done():
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, 4:] = (9, 9, 9, 255)
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    found = {
        (turn, alpha): prepare(file.getvalue(), Preparation(size=8, exif=turn, alpha=alpha))[0][..., 0]
        for turn in ("ignore", "apply")
        for alpha in ("drop", "white")
    }
    for alpha, clear in (("drop", 0), ("white", 255)):
        due = np.tile(np.repeat([clear, 9], 4), (8, 1))
        assert (found["ignore", alpha] == due).all() and (found["apply", alpha] == due.T).all()

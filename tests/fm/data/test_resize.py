import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fm.data import open_source
from fm.data.decode import Rejected, decode
from fm.data.resize import RESIZE, pair


def bicubic(x):
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2 else 0.0


def lanczos(x):
    return float(np.sinc(x) * np.sinc(x / 3)) if -3 <= x < 3 else 0.0


KERNELS = {"box": (lambda x: float(-0.5 < x <= 0.5), 0.5), "bicubic": (bicubic, 2.0), "lanczos": (lanczos, 3.0)}


def weights(length, size, kernel):
    """(size, length), in units of 2**-22: what each new pixel takes of each old one by the stretched kernel."""
    function, support = KERNELS[kernel]
    table = np.zeros((size, length), np.int64)
    scale = max(length / size, 1.0)
    for new in range(size):
        centre = (new + 0.5) * (length / size)
        first = max(int(centre - support * scale + 0.5), 0)
        last = min(int(centre + support * scale + 0.5), length)
        row = [function((old - centre + 0.5) * (1.0 / scale)) for old in range(first, last)]
        table[new, first:last] = [int(math.copysign(0.5, w) + w / sum(row) * 2**22) for w in row]
    return table


def resampled(pixels, width, height, kernel):
    """By the definition: first along the rows, then along the columns, each rounded to whole levels and clipped."""
    if width != pixels.shape[1]:
        sums = np.einsum("hwc,nw->hnc", pixels.astype(np.int64), weights(pixels.shape[1], width, kernel))
        pixels = np.clip((sums + 2**21) >> 22, 0, 255)
    if height != pixels.shape[0]:
        sums = np.einsum("hwc,nh->nwc", pixels.astype(np.int64), weights(pixels.shape[0], height, kernel))
        pixels = np.clip((sums + 2**21) >> 22, 0, 255)
    return pixels.astype(np.uint8)


def adm(pixels, size):
    """The recipe of ADM's data loader (Dhariwal and Nichol 2021), with the resampling above."""
    height, width, _ = pixels.shape
    while min(height, width) >= 2 * size:
        height, width = height // 2, width // 2
        pixels = resampled(pixels, width, height, "box")
    scale = size / min(height, width)
    pixels = resampled(pixels, round(width * scale), round(height * scale), "bicubic")
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


def mean_of_areas(pixels, size):
    """In exact fractions."""
    height, width, channels = pixels.shape

    def parts(length):
        edges = [Fraction(i * length, size) for i in range(size + 1)]
        return [[max(min(e2, p + 1) - max(e1, p), 0) for p in range(length)] for e1, e2 in pairwise(edges)]

    rows, columns = parts(height), parts(width)
    whole = Fraction(height * width, size * size)
    result = np.empty((size, size, channels), np.uint8)
    for i in range(size):
        for j in range(size):
            outer = np.outer(rows[i], columns[j])[..., None]
            result[i, j] = [math.floor(v / whole + Fraction(1, 2)) for v in (outer * pixels.astype(object)).sum((0, 1))]
    return result


BY_DEFINITION = {
    "box": lambda pixels, size: resampled(pixels, size, size, "box"),
    "lanczos": lambda pixels, size: resampled(pixels, size, size, "lanczos"),
    "center-crop": adm,
    "area": mean_of_areas,
}


@pytest.mark.parametrize("method", RESIZE)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(4, 9), st.integers(0, 99))
@settings(max_examples=25)
def test_every_method_is_its_definition_to_the_last_pixel(method, width, height, size, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if seed % 3 == 0:
        pixels = pixels // 128 * 255  # edges that overshoot
    assert (np.asarray(RESIZE[method](Image.fromarray(pixels), size)) == BY_DEFINITION[method](pixels, size)).all()


@pytest.mark.parametrize("method", ["box", "center-crop", "lanczos"])
def test_a_photograph_is_its_definition_to_the_last_pixel(method):
    from fm.data.sources.photos import _photograph

    photograph = _photograph("coffee")  # 600 x 400
    for size in (28, 64):
        due = BY_DEFINITION[method](np.asarray(photograph), size)
        assert (np.asarray(RESIZE[method](photograph, size)) == due).all()


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


def test_center_crop_keeps_the_middle_and_the_proportions():
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80] = 255
    assert np.asarray(RESIZE["center-crop"](Image.fromarray(pixels), 40)).min() == 255
    squeezed = np.asarray(RESIZE["center-crop"](Image.fromarray(pixels), 10))
    assert squeezed[:, 1:-1].min() > 250


def test_a_line_of_pixels_is_not_enlarged_without_bound():
    line = Image.new("RGB", (30_000, 1))
    with pytest.raises(Rejected, match="too-narrow"):
        RESIZE["center-crop"](line, 64)
    assert RESIZE["box"](line, 64).size == RESIZE["area"](line, 64).size == (64, 64)


@pytest.mark.parametrize(
    ("method", "tall", "wide"),
    [("box", False, True), ("lanczos", False, True), ("center-crop", False, False), ("area", True, False)],
)
def test_no_line_of_pixels_is_huge_on_the_way(method, tall, wide):
    """tall, wide: whether such a line can be resized in little memory."""
    for size, fits in (((1, 4_000_000), tall), ((4_000_000, 1), wide)):
        line = Image.new("RGB", size)
        if fits:
            assert RESIZE[method](line, 32).size == (32, 32)
        else:
            with pytest.raises(Rejected, match="too-narrow"):
                RESIZE[method](line, 32)


def test_pairs():
    source = open_source("photos:?tiles=3")
    picture = decode(source.read(source.items()[0]))
    large, small = pair(picture, "center-crop", 32, 8)
    assert (np.asarray(large) == np.asarray(RESIZE["center-crop"](picture, 32))).all()
    means = np.asarray(large, float).reshape(8, 4, 8, 4, 3).mean((1, 3))
    assert np.abs(np.asarray(small) - means).max() <= 1  # Pillow rounds after each of its two passes

"""From an RGB picture of any size to a square of `size` pixels; a method is one function in the dict at the foot.

Always from all pixels of the file: no decoding at a reduced scale, no reducing gap, which give other pixels. And always
first along the rows, then along the columns, as every Pillow did when the official sets were made: from Pillow 13 on, a
single call goes the other way where a picture is 1.7 times as tall as wide or more: 13 % of the values differ by one.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fm.data.decode import MAX_PIXELS, Rejected

FLOAT_SHARE = 6  # three float64 take six times the room of a pixel in Pillow


def _resized(image: Image.Image, width: int, height: int, by: Image.Resampling) -> Image.Image:
    """Raises: Rejected if the picture is so narrow that it is huge on the way, when only its rows are resized."""
    if width * max(height, image.height) > MAX_PIXELS:
        raise Rejected("too-narrow")
    if width <= height <= image.height <= image.width:
        return image.resize((width, height), by)  # goes that way on its own, and sooner
    return image.resize((width, image.height), by).resize((width, height), by)


def box(image: Image.Image, size: int) -> Image.Image:
    """The whole picture squeezed to a square by Pillow's BOX: the official ImageNet 32/64 (Chrabaszcz et al. 2017)."""
    return _resized(image, size, size, Image.Resampling.BOX)


def lanczos(image: Image.Image, size: int) -> Image.Image:
    """The whole picture squeezed to a square by Pillow's LANCZOS."""
    return _resized(image, size, size, Image.Resampling.LANCZOS)


def area(image: Image.Image, size: int) -> Image.Image:
    """The whole picture squeezed to a square, each pixel the mean of its exact area: pixels that lie half inside count
    half (BOX counts a pixel whole or not at all).

    Raises: Rejected if the picture is so wide that it is huge on the way, when only its columns are resized.
    """
    if FLOAT_SHARE * size * image.width > MAX_PIXELS:
        raise Rejected("too-narrow")
    pixels = np.asarray(image)
    rows, columns = _overlaps(image.height, size), _overlaps(image.width, size)
    # In units of 1/size of a pixel all weights are whole, and float64 holds every sum exactly: the order is free.
    tall = [weights @ pixels[first : first + len(weights)].reshape(len(weights), -1) for first, weights in rows]
    strips = np.stack(tall).reshape(size, image.width, -1)
    sums = [np.tensordot(strips[:, first : first + len(weights)], weights, (1, 0)) for first, weights in columns]
    whole = image.width * image.height
    means = (2 * np.stack(sums, axis=1).astype(np.int64) + whole) // (2 * whole)
    return Image.fromarray(means.astype(np.uint8))


def _overlaps(length: int, size: int) -> list[tuple[int, NDArray[np.float64]]]:
    """For each of `size` equal parts of a line of pixels: the first pixel in it, and how much of each it covers."""
    parts = []
    for part in range(size):
        low, high = part * length, (part + 1) * length
        first, last = low // size, -(-high // size)
        edges = np.clip(np.arange(first, last + 1) * size, low, high)
        parts.append((first, np.diff(edges).astype(np.float64)))
    return parts


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The short side to `size`, then the centre (ADM's recipe: halve by means while possible, bicubic for the rest).

    Raises: Rejected if the picture is so narrow that enlarging its short side makes it huge.
    """
    while min(image.size) >= 2 * size:
        image = _resized(image, image.width // 2, image.height // 2, Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    image = _resized(image, width, height, Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def pair(image: Image.Image, method: str, size: int, low: int) -> tuple[Image.Image, Image.Image]:
    """The picture at `size`, and that one brought down to `low`, each pixel a mean: what super-resolution learns from.

    Raises: Rejected.
    """
    large = RESIZE[method](image, size)
    return large, box(large, low)


RESIZE: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "box": box,
    "center-crop": center_crop,
    "area": area,
    "lanczos": lanczos,
}

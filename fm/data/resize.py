"""From an RGB picture of any size to a square of `size` pixels; a method is one function in the dict at the foot."""

from collections.abc import Callable

from PIL import Image


def box(image: Image.Image, size: int) -> Image.Image:
    """The whole picture squeezed to a square, each pixel the mean of its area (the official ImageNet 32/64 recipe)."""
    return image.resize((size, size), Image.Resampling.BOX)


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The short side to `size`, then the centre (ADM's recipe: halve by means while possible, bicubic for the rest)."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


RESIZE: dict[str, Callable[[Image.Image, int], Image.Image]] = {"box": box, "center-crop": center_crop}

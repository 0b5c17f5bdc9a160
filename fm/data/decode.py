"""Bytes -> an upright RGB picture, or a rejection with a reason from a closed list.

The rules: EXIF orientation is applied; transparency is laid over white; 16-bit grey is divided by 257 and rounded
(Pillow's own conversion clips it to white); greyscale, palette, CMYK, YCbCr and HSV are converted by Pillow; of several
frames the first counts; colour profiles are ignored.
"""

import io
import warnings
from contextlib import suppress

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

REASONS = {
    "empty": "the file has no bytes",
    "not-an-image": "no known image format",
    "truncated": "the picture ends early",
    "corrupt": "the picture's data is damaged",
    "too-large": "more than 100 million pixels or 256 MiB",
    "unsupported-mode": "pixels that have no stated conversion to RGB",
    "unreadable": "the file cannot be read",
    "not-a-file": "a link or special member of an archive, never followed",
    "duplicate": "a second sample of the same name in one archive",
    "damaged-archive": "an archive in the archive, damaged or cut short; its pictures before that are kept",
}
MAX_PIXELS = 100_000_000
MAX_BYTES = 256 * 1024**2
# Closed, because Pillow's other readers include some that start external programs (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
EXTENSIONS = frozenset([".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"])
CONVERTED = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"})


class Rejected(Exception):
    """A picture that is left out; `reason` is a key of REASONS. Caught by the shard's writer, never seen by users."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode(data: bytes) -> Image.Image:
    """The upright RGB picture in the bytes of an image file, or of a uint8 (height, width, 3) `.npy`.

    Raises: Rejected.
    """
    if not data:
        raise Rejected("empty")
    if len(data) > MAX_BYTES:
        raise Rejected("too-large")
    return to_rgb(_array(data) if data.startswith(b"\x93NUMPY") else _upright(_open(data)))


def _array(data: bytes) -> Image.Image:
    try:
        pixels = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception:  # a damaged header raises whatever its parser meets
        raise Rejected("corrupt") from None
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise Rejected("unsupported-mode")
    return Image.fromarray(np.ascontiguousarray(pixels))


def size_of(data: bytes) -> tuple[int, int]:
    """(width, height) as stored, from the file's header alone.

    Raises: Rejected.
    """
    return (_array(data) if data.startswith(b"\x93NUMPY") else _open(data, load=False)).size


def _open(data: bytes, load: bool = True) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about large and odd files; our own limit decides
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise Rejected("too-large")
            if load:
                image.load()
            return image
    except Rejected:
        raise
    except UnidentifiedImageError:
        raise Rejected("not-an-image") from None
    except Image.DecompressionBombError:
        raise Rejected("too-large") from None
    except Exception as error:  # Pillow's readers raise almost anything on damaged bytes: struct.error, IndexError, ...
        early = isinstance(error, EOFError) or "truncated" in str(error).lower()
        raise Rejected("truncated" if early else "corrupt") from None


def _upright(image: Image.Image) -> Image.Image:
    # Damaged EXIF says nothing about orientation; the picture itself is sound.
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ImageOps.exif_transpose(image)
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB by the rules above.

    Raises: Rejected for a mode without a rule.
    """
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65_535:
            raise Rejected("unsupported-mode")
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
    try:
        if image.has_transparency_data:
            over = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
        if image.mode in CONVERTED:
            return image.convert("RGB")
    except (ValueError, OSError):  # what Pillow raises where it knows no conversion
        pass
    raise Rejected("unsupported-mode")

"""Bytes -> an RGB picture, or a rejection with a reason from a closed list.

The rules: EXIF orientation is ignored or applied, transparency is dropped or laid over white, as asked; 16-bit grey is
divided by 257 and rounded (Pillow's own conversion clips it to white), of 16-bit colour Pillow gives the high byte, and
its one transparent colour is not looked for; greyscale, palette, CMYK, YCbCr and HSV are converted by Pillow; the first
of several frames counts; colour profiles are ignored. JPEGs are decoded whole, never at a reduced scale.

JPEGs have no checksum: what libjpeg notices is rejected as damage, and no more. It does not notice bytes that happen to
decode to other pixels, nor a progressive JPEG that ends between two scans. Bytes that it has no use for are no damage,
since sound files have them too; where they stand behind the header, it says nothing of what comes after them. And it is
not asked about sampling factors outside of 4:4:4, 4:4:0, 4:2:2, 4:2:0, 4:1:1 and 4:4:1.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fm.data.jpeg import bare, plain_frame
from fm.data.rows import npy_header

REASONS = {
    "empty": "the file has no bytes",
    "not-an-image": "no known image format",
    "truncated": "the picture ends early",
    "corrupt": "the picture's data is damaged",
    "too-large": "more than 100 million pixels or 256 MiB",
    "too-narrow": "so narrow that with one side resized it takes the room of more than 100 million pixels",
    "unsupported-mode": "pixels that have no stated conversion to RGB",
    "unreadable": "the file cannot be read",
    "not-a-file": "a link or special member of an archive, or a pipe or device in a folder: never followed or read",
    "unsafe-name": "a member of an archive whose name is absolute or leads out of its folder by `..`",
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


class Header(NamedTuple):
    """What a picture says of itself: (width, height) as stored, and its traits, names from TRAITS."""

    size: tuple[int, int]
    traits: frozenset[str]


TRAITS = {
    "exif-rotated": "its EXIF says that it is to be turned",
    "alpha": "it has transparent parts",
    "cmyk": "its colours are those of print",
    "grey": "it has no colours",
    "palette": "its colours are those of a palette",
    "16-bit": "it has 16 bits a channel",
    "colour-profile": "it brings a colour profile, which is ignored",
}
ORIENTATION = 0x0112


def decode(data: bytes, exif: str = "ignore", alpha: str = "drop") -> Image.Image:
    """The RGB picture in the bytes of an image file, or of a uint8 (height, width, 3) `.npy`.

    exif: "ignore" or "apply" its orientation; alpha: "drop" transparency or lay it over "white".

    Raises: Rejected.
    """
    return decode_with_traits(data, exif, alpha)[0]


def decode_with_traits(data: bytes, exif: str = "ignore", alpha: str = "drop") -> tuple[Image.Image, frozenset[str]]:
    """As `decode`, and the file's traits, names from TRAITS.

    Raises: Rejected.
    """
    if not data:
        raise Rejected("empty")
    if len(data) > MAX_BYTES:
        raise Rejected("too-large")
    if data.startswith(b"\x93NUMPY"):
        return _array(data), frozenset()
    if plain := _plain_jpeg(data):
        pixels = np.empty((*reversed(plain.size), 4), np.uint8)
        if _flawless(data, "RGBA", pixels):
            return _rgb_over(pixels), plain.traits
    image = _open(data)
    traits = _traits(image)
    with _rejecting():
        if image.format in ("JPEG", "MPO"):  # MPO: a JPEG and further ones behind it
            image = _jpeg(image, data)
        elif image.format == "TIFF":
            image = _tiff(image, _orientation(image) if exif == "ignore" else 1)
        else:
            image.load()
    if image.format == "PNG" and _orientation(image) > 1:  # which may stand behind the pixels
        traits |= {"exif-rotated"}
    return to_rgb(_upright(image) if exif == "apply" else image, alpha), traits


def _array(data: bytes) -> Image.Image:
    try:
        file = io.BytesIO(data)
        header = npy_header(file)
        if header.bytes > len(data) - file.tell():
            raise Rejected("corrupt")  # before numpy makes room for what a damaged header says
        pixels = np.load(io.BytesIO(data), allow_pickle=False)
    except (Rejected, MemoryError):
        raise
    except Exception:  # a damaged header raises whatever its parser meets
        raise Rejected("corrupt") from None
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise Rejected("unsupported-mode")
    return Image.fromarray(np.ascontiguousarray(pixels))


def header_of(data: bytes) -> Header:
    """Size (of a TIFF as it is upright) and traits, from the file's header alone.

    Raises: Rejected.
    """
    if data.startswith(b"\x93NUMPY"):
        return Header(_array(data).size, frozenset())
    if plain := _plain_jpeg(data):
        return plain
    image = _open(data)
    return Header(image.size, _traits(image))


def _traits(image: Image.Image) -> frozenset[str]:
    """Of a picture that is open, but not yet decoded: then Pillow has forgotten some of them."""
    found = {
        "exif-rotated": _orientation(image) > 1,
        "alpha": image.has_transparency_data,
        "cmyk": image.mode == "CMYK",
        "grey": image.mode in ("1", "L", "LA", "I") or image.mode.startswith("I;"),
        "palette": image.mode in ("P", "PA"),
        "16-bit": image.mode.startswith("I;16")
        or (image.format != "JPEG" and ";16" in str(getattr(image, "tile", ""))),  # Pillow has no other mode of 16 bits
        "colour-profile": bool(image.info.get("icc_profile")),
    }
    return frozenset(trait for trait, there in found.items() if there)


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG" and "exif" not in image.info and getattr(image, "tile", None):
        return 1  # not decoded: Pillow would decode the whole picture to look behind it
    if image.format == "JPEG" and not image.info.keys() & {"exif", "xmp"}:
        return 1  # at once, for these are most
    with _harmless():
        return int(image.getexif().get(ORIENTATION, 1))
    return 1


def _open(data: bytes) -> Image.Image:
    with _rejecting():
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise Rejected("too-large")
        return image


# What libjpeg says of damage; Pillow hides it and gives what could be decoded, the rest in grey.
DAMAGE = {
    "Premature end of JPEG file": "truncated",
    "premature end of data segment": "corrupt",
    "bad Huffman code": "corrupt",
    "bad arithmetic code": "corrupt",
    "instead of RST": "corrupt",
}


def _plain_jpeg(data: bytes) -> Header | None:
    """The header of a JPEG that `jpeg.plain_frame` can read; None for any other: Pillow says what it is."""
    if not (frame := plain_frame(data)) or not 0 < frame.width * frame.height <= MAX_PIXELS:
        return None
    return Header((frame.width, frame.height), frozenset({"grey"} if frame.channels == 1 else ()))


def _jpeg(image: Image.Image, data: bytes) -> Image.Image:
    """The picture of an open JPEG: libjpeg's where it has nothing to say against it, else Pillow's. Both give the same
    pixels.

    Raises: Rejected for damage; what Pillow raises.
    """
    colours = "CMYK" if image.mode == "CMYK" else "RGBA"
    pixels = np.empty((image.height, image.width, 4), np.uint8)
    if not _flawless(data, colours, pixels):
        _flawless(bare(data), colours, pixels)  # it says only what it meets first, and that was a harmless oddity
    elif image.mode != "CMYK":  # whose conversion is Pillow's
        picture = _rgb_over(pixels)
        picture.info = image.info  # with its EXIF
        return picture
    image.load()
    return image


def _rgb_over(pixels: np.ndarray) -> Image.Image:
    """The RGB picture in uint8 (height, width, 4), whose memory it shares: Pillow keeps RGB in four bytes a pixel, and
    copying them would take a tenth of the decoding's time."""
    height, width, _ = pixels.shape
    four = Image.frombuffer("RGBX", (width, height), pixels, "raw", "RGBX", 0, 1)
    return Image.fromarrow(four, "RGB", four.size)


def _flawless(data: bytes, colours: str, pixels: np.ndarray) -> bool:
    """Decodes into uint8 pixels (height, width, channels); False where libjpeg objects to something that is no damage.

    Raises: Rejected for damage.
    """
    from simplejpeg import decode_jpeg  # here, for machines that only train have no need of it

    try:
        return decode_jpeg(data, colours, buffer=pixels).shape == pixels.shape
    except ValueError as error:
        for says, reason in DAMAGE.items():
            if says in str(error):
                raise Rejected(reason) from None
        return False


WHITE_IS_ZERO = 0  # of the tag PHOTOMETRIC
PHOTOMETRIC = 0x0106
TURNED_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def _tiff(image: Image.Image, turn: int) -> Image.Image:
    """The picture of an open TIFF, which Pillow turns upright, turned back by an EXIF orientation.

    Raises: what Pillow raises.
    """
    white_is_zero = image.mode == "I;16" and getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
    image.load()
    if white_is_zero:  # Pillow sees to 8 bits alone
        image = Image.fromarray(65_535 - np.asarray(image))
    return image.transpose(TURNED_BACK[turn]) if turn in TURNED_BACK else image


@contextmanager
def _rejecting() -> Iterator[None]:
    """Whatever Pillow says of damaged bytes, as a reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about large and odd files; our own limit decides
            yield
    except (Rejected, MemoryError):  # which says nothing of the picture
        raise
    except UnidentifiedImageError:
        raise Rejected("not-an-image") from None
    except Image.DecompressionBombError:
        raise Rejected("too-large") from None
    except Exception as error:  # Pillow's readers raise almost anything on damaged bytes: struct.error, IndexError, ...
        early = isinstance(error, EOFError) or "truncated" in str(error).lower()
        raise Rejected("truncated" if early else "corrupt") from None


def _upright(image: Image.Image) -> Image.Image:
    with _harmless():
        return ImageOps.exif_transpose(image)
    return image


@contextmanager
def _harmless() -> Iterator[None]:
    """Damaged EXIF says nothing about orientation; the picture itself is sound."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except MemoryError:
        raise
    except Exception:
        return


def to_rgb(image: Image.Image, alpha: str = "drop") -> Image.Image:
    """The picture in RGB by the rules above.

    Raises: Rejected for a mode without a rule.
    """
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if alpha == "white" and "transparency" in image.info:  # of a PNG: the one grey that is transparent
            levels[levels == image.info["transparency"]] = 65_535
        if levels.min() < 0 or levels.max() > 65_535:
            raise Rejected("unsupported-mode")
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
    try:
        if image.has_transparency_data:
            over = image.convert("RGBA")
            if alpha == "white":
                over = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
            return over.convert("RGB")
        if image.mode in CONVERTED:
            return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
    except (ValueError, OSError):  # what Pillow raises where it knows no conversion
        pass
    raise Rejected("unsupported-mode")

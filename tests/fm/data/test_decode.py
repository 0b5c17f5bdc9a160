import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fm.data import decode as decoding
from fm.data.decode import REASONS, TRAITS, Rejected, decode, decode_with_traits, header_of


def file_of(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def colour(data, **options):
    pixels = np.asarray(decode(data, **options))
    assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
    return tuple(pixels[0, 0].tolist())


def reason(data):
    with pytest.raises(Rejected) as caught:
        decode(data)
    assert caught.value.reason in REASONS
    return caught.value.reason


def test_modes_by_their_stated_rules():
    red = Image.new("RGB", (6, 4), (255, 0, 0))
    assert colour(file_of(red)) == (255, 0, 0)
    assert colour(file_of(red.convert("P"))) == (255, 0, 0)
    assert colour(file_of(Image.new("L", (6, 4), 77))) == (77, 77, 77)
    assert colour(file_of(Image.new("1", (6, 4), 1))) == (255, 255, 255)
    assert colour(file_of(Image.new("CMYK", (6, 4), (0, 255, 255, 0)), "TIFF")) == (255, 0, 0)


def test_transparency_is_dropped_or_lies_over_white():
    palette = Image.new("P", (6, 4), 0)
    palette.putpalette([0, 0, 255] * 256)
    for data, stored, over_white in [
        (file_of(Image.new("RGBA", (6, 4), (9, 8, 7, 0))), (9, 8, 7), (255, 255, 255)),
        (file_of(Image.new("LA", (6, 4), (0, 51))), (0, 0, 0), (204, 204, 204)),
        (file_of(palette, transparency=0), (0, 0, 255), (255, 255, 255)),
        (file_of(palette, transparency=bytes([0])), (0, 0, 255), (255, 255, 255)),
        (file_of(Image.new("RGB", (6, 4), (9, 8, 7)), transparency=(9, 8, 7)), (9, 8, 7), (255, 255, 255)),
    ]:
        assert colour(data) == stored and colour(data, alpha="white") == over_white


@pytest.mark.parametrize(("level", "due"), [(0, 0), (65_535, 255), (257 * 100, 100), (257 * 100 + 129, 101)])
def test_sixteen_bits_are_divided_by_257(level, due):
    assert colour(file_of(Image.fromarray(np.full((4, 6), level, np.uint16)))) == (due, due, due)


def turned(format, **options):
    """Black left, white right; by its EXIF black is above."""
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:, 3:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    return file_of(Image.fromarray(pixels), format, exif=exif, **options)


@pytest.mark.parametrize("options", [{"format": "PNG"}, {"format": "JPEG", "quality": 100, "subsampling": 0}], ids=str)
def test_exif_orientation_is_ignored_or_applied(options):
    stored, upright = decode(turned(**options)), decode(turned(**options), exif="apply")
    assert stored.size == (6, 4) and np.asarray(stored)[:, 0].max() < 5 and np.asarray(stored)[:, -1].min() > 250
    assert upright.size == (4, 6) and np.asarray(upright)[0].max() < 5 and np.asarray(upright)[-1].min() > 250


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_a_tiff_is_turned_only_when_asked(turn, compression):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = turn
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(file_of(Image.fromarray(pixels), exif=exif))))
    data = file_of(Image.fromarray(pixels), "TIFF", tiffinfo={0x0112: turn}, compression=compression)
    assert (np.asarray(decode(data)) == pixels).all()
    assert (np.asarray(decode(data, exif="apply")) == np.asarray(upright)).all()


@pytest.mark.parametrize("turn", [1, 6])
def test_sixteen_bits_whose_zero_is_white(turn):
    levels = np.full((4, 6), 65_535, np.uint16)
    levels[0, 0] = 0
    data = file_of(Image.fromarray(levels), "TIFF", tiffinfo={0x0106: 0, 0x0112: turn})
    for exif, corner in (("ignore", (0, 0)), ("apply", (0, -1) if turn == 6 else (0, 0))):
        pixels = np.asarray(decode(data, exif))
        assert pixels[corner].tolist() == [255] * 3 and pixels.sum() == 3 * 255


def test_traits_come_from_the_header():
    from PIL import ImageCms

    grey, rgb = Image.new("L", (6, 4), 77), Image.new("RGB", (6, 4))
    colour_16 = Image.fromarray(np.zeros((4, 6), np.uint16))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    due = {
        "exif-rotated": [turned("JPEG"), turned("PNG"), turned("WEBP", lossless=True)],
        "alpha": [file_of(rgb.convert("RGBA")), file_of(rgb, transparency=(0, 0, 0))],
        "cmyk": [file_of(Image.new("CMYK", (6, 4)), "JPEG"), file_of(Image.new("CMYK", (6, 4)), "TIFF")],
        "grey": [file_of(grey), file_of(grey, "JPEG"), file_of(Image.new("1", (6, 4)))],
        "palette": [file_of(rgb.convert("P")), file_of(rgb.convert("P"), "GIF")],
        "colour-profile": [file_of(rgb, "JPEG", icc_profile=profile), file_of(rgb, icc_profile=profile)],
    }
    for trait, files in due.items():
        assert trait in TRAITS
        for data in files:
            assert header_of(data) == ((6, 4), {trait}), trait
    assert header_of(file_of(colour_16)).traits == header_of(file_of(colour_16, "TIFF")).traits == {"16-bit", "grey"}
    assert header_of(file_of(rgb, "JPEG")) == ((6, 4), frozenset())


def test_a_decoded_picture_has_the_traits_of_its_header():
    chunk = turned("PNG")[turned("PNG").index(b"eXIf") - 4 :]
    chunk = chunk[: 12 + struct.unpack(">I", chunk[:4])[0]]
    plain = file_of(Image.new("RGB", (6, 4)))
    behind = plain[:-12] + chunk + plain[-12:]  # between the pixels and the end
    assert decode_with_traits(behind)[1] == {"exif-rotated"} and header_of(behind).traits == frozenset()
    assert decode_with_traits(sixteen_bit_colour(np.zeros((4, 6, 3), np.uint16)))[1] == {"16-bit"}
    for data in (turned("JPEG"), turned("TIFF"), turned("WEBP"), plain, file_of(Image.new("CMYK", (6, 4)), "JPEG")):
        assert decode_with_traits(data)[1] == header_of(data).traits


def sixteen_bit_colour(pixels):
    return sixteen_bit_png(pixels, 2)


def sixteen_bit_png(pixels, kind, *chunks):
    """A PNG of 16 bits, grey (0) or in three channels (2), with chunks before its pixels: what Pillow cannot write."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        *chunks,
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def test_the_transparent_grey_of_sixteen_bits():
    levels = np.array([[40_000, 40_001, 1000]], np.uint16)  # the second is the same grey in 8 bits, but not transparent
    data = sixteen_bit_png(levels, 0, (b"tRNS", struct.pack(">H", 40_000)))
    assert np.asarray(decode(data))[0, :, 0].tolist() == [156, 156, 4]
    assert np.asarray(decode(data, alpha="white"))[0, :, 0].tolist() == [255, 156, 4]


def test_sixteen_bit_colour():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint16)
    data = sixteen_bit_colour(pixels * 257)
    assert (np.asarray(decode(data)) == pixels).all() and header_of(data).traits == {"16-bit"}


def test_cmyk_as_photoshop_writes_it():
    """Adobe's CMYK JPEGs are inverted, as ImageNet's 22 are; Pillow turns them back."""
    data = file_of(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
    assert b"Adobe" in data and np.abs(np.array(colour(data)) - (255, 0, 0)).max() <= 3


def test_sizes_come_from_the_header_alone(png):
    assert header_of(png(0)[:100]) == ((24, 20), frozenset())


def test_a_png_is_a_png_whatever_it_is_called(png):
    assert decode(png(0)).size == (24, 20)


def test_npy_pictures():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    file = io.BytesIO()
    np.save(file, pixels)
    assert (np.asarray(decode(file.getvalue())) == pixels).all()
    whole = file.getvalue()
    for wrong in (pixels.astype(float), pixels[..., 0], pixels[:0]):
        file = io.BytesIO()
        np.save(file, wrong)
        assert reason(file.getvalue()) == "unsupported-mode"
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], object))
    for broken in (file.getvalue(), whole[:-1], whole[:20] + bytes(9) + whole[29:]):
        assert reason(broken) == "corrupt"


def test_reasons(png, monkeypatch):
    whole = png(0)
    assert reason(b"") == "empty"
    assert reason(b"<html>not found</html>") == "not-an-image"
    assert reason(whole[: len(whole) // 2]) == "truncated"
    assert reason(whole[:60] + bytes(40) + whole[100:]) == "corrupt"
    assert reason(file_of(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF")) == "unsupported-mode"
    jpeg = file_of(Image.effect_noise((64, 64), 90), "JPEG")
    assert reason(jpeg[:-300]) == "truncated"
    monkeypatch.setattr(decoding, "MAX_PIXELS", 400)
    assert reason(whole) == "too-large"


def test_a_picture_that_lies_about_its_size_is_not_decoded():
    """A PNG header of 60,000 x 60,000 pixels and no data for them."""
    body = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    assert reason(bomb + b"\x00\x00\x00\x00IDAT\x35\xaf\x06\x1e") == "too-large"


def test_no_reader_starts_a_program():
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "not-an-image"


FILES = [
    file_of(Image.effect_noise((9, 7), 80).convert("RGB"), format)
    for format in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
]


@given(st.sampled_from(FILES), st.data())
def test_damage_is_a_picture_or_a_reason_and_nothing_else(whole, data):
    at = data.draw(st.integers(0, len(whole) - 1))
    patch = data.draw(st.binary(max_size=12))
    damaged = whole[:at] + patch + whole[at + data.draw(st.integers(0, 20)) :]
    for attempt in (decode, lambda data: decode(data, "apply", "white"), header_of):
        try:
            attempt(damaged)
        except Rejected as rejected:
            assert rejected.reason in REASONS

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fm.data import decode as decoding
from fm.data.decode import REASONS, Rejected, decode, size_of


def file_of(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def colour(data):
    pixels = np.asarray(decode(data))
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


def test_transparency_lies_over_white():
    assert colour(file_of(Image.new("RGBA", (6, 4), (0, 0, 0, 0)))) == (255, 255, 255)
    assert colour(file_of(Image.new("LA", (6, 4), (0, 51)))) == (204, 204, 204)
    palette = Image.new("P", (6, 4), 0)
    palette.putpalette([0, 0, 255] * 256)
    assert colour(file_of(palette, transparency=0)) == (255, 255, 255)


@pytest.mark.parametrize(("level", "due"), [(0, 0), (65_535, 255), (257 * 100, 100), (257 * 100 + 129, 101)])
def test_sixteen_bits_are_divided_by_257(level, due):
    assert colour(file_of(Image.fromarray(np.full((4, 6), level, np.uint16)))) == (due, due, due)


def test_exif_orientation_is_applied():
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:, 3:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    upright = decode(file_of(Image.fromarray(pixels), exif=exif))
    assert upright.size == (4, 6) and np.asarray(upright)[0].max() == 0 and np.asarray(upright)[-1].min() == 255


def test_sizes_come_from_the_header_alone(png):
    assert size_of(png(0)[:100]) == (24, 20)


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
    import struct
    import zlib

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
    for attempt in (decode, size_of):
        try:
            attempt(damaged)
        except Rejected as rejected:
            assert rejected.reason in REASONS

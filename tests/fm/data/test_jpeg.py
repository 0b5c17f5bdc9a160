import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fm.data import decode as decoding
from fm.data.decode import Rejected, decode, decode_with_traits, header_of
from fm.data.jpeg import SEGMENT, plain_frame
from fm.data.sources.photos import _photograph
from tests.fm.data.test_decode import file_of, reason, turned


def photograph(mode="RGB", **options):
    return file_of(_photograph("coffee").convert(mode).crop((0, 0, 600, 400)), "JPEG", **options)


JPEGS = [
    {"quality": quality, "subsampling": subsampling, "progressive": progressive}
    for quality in (30, 75, 95)
    for subsampling in ("4:4:4", "4:2:2", "4:2:0")
    for progressive in (False, True)
] + [{"mode": "L"}, {"mode": "CMYK"}, {"keep_rgb": True}, {"restart_marker_rows": 1}, {"optimize": True}]


@pytest.mark.parametrize("options", JPEGS, ids=str)
def test_jpegs_have_pillows_pixels(options):
    data = photograph(**options)
    assert (np.asarray(decode(data)) == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (31, 1), (7, 5), (33, 16)], ids=str)
def test_jpegs_of_odd_sizes_have_pillows_pixels(size):
    for subsampling in (0, 1, 2):
        data = file_of(_photograph("coffee").crop((0, 0, *size)), "JPEG", subsampling=subsampling)
        assert (np.asarray(decode(data)) == np.asarray(Image.open(io.BytesIO(data)))).all()


def test_the_first_of_several_jpegs_counts():
    first = _photograph("coffee")
    data = file_of(first, "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    assert Image.open(io.BytesIO(data)).format == "MPO" and decode(data).size == first.size
    assert reason(data[: len(data) // 2] + END) == "corrupt"


def scan(jpeg):
    """Where the data of the first scan begin."""
    start = jpeg.index(b"\xff\xda")
    return start + 2 + int.from_bytes(jpeg[start + 2 : start + 4])


def segment(marker, body):
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2) + body


END = b"\xff\xd9"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"mode": "L"}, {"mode": "CMYK"}], ids=str)
def test_damaged_jpegs_are_rejected(options):
    whole = photograph(**options)
    half, noise = len(whole) // 2, np.random.default_rng(1).bytes(2000)
    assert reason(whole[:half]) == "truncated"
    assert reason(whole[:half] + bytes(len(whole) - half)) == "truncated"
    assert reason(whole[:half] + END) == "corrupt"
    assert reason(whole[:half] + noise + whole[half + 2000 :]) == "corrupt"
    assert reason(whole[: scan(whole)] + END) == "corrupt"
    assert reason(whole[:-2]) == "truncated"


def test_zeros_that_decode_to_a_picture_are_rejected():
    """With these tables a run of zeros is grey blocks up to the last row."""
    whole = photograph(optimize=True, quality=10)
    cut = scan(whole) + (len(whole) - scan(whole)) * 4 // 5
    damaged = whole[:cut] + bytes(len(whole) - cut)
    assert Image.open(io.BytesIO(damaged)).load() and reason(damaged) == "truncated"


def test_a_lost_restart_marker_is_damage():
    whole = photograph(restart_marker_rows=1)
    assert reason(whole.replace(b"\xff\xd2", b"\xff\xd5", 1)) == "corrupt"


ODD = {
    "bytes between segments": lambda jpeg: jpeg[:20] + b"abc" + jpeg[20:],
    "bytes before the scan": lambda jpeg: jpeg.replace(b"\xff\xda", b"abc\xff\xda", 1),
    "a JFIF of the future": lambda jpeg: jpeg.replace(b"JFIF\0\1", b"JFIF\0\3", 1),
    "half a colour profile": lambda jpeg: jpeg[:2] + segment(0xE2, b"ICC_PROFILE\0\2\1x") + jpeg[2:],
    "metadata of many kinds": lambda jpeg: (
        jpeg[:2] + segment(0xE1, b"Exif\0\0x") + segment(0xEC, b"Ducky") + segment(0xFE, END) + jpeg[2:]
    ),
}
BEHIND = {
    "bytes before the end": lambda jpeg: jpeg[:-2] + bytes([0x7F] * 20) + jpeg[-2:],
    "bytes behind the end": lambda jpeg: jpeg + bytes(500) + jpeg[:200],
    "a scan header of no sequential JPEG": lambda jpeg: jpeg[: scan(jpeg) - 2] + b"\0" + jpeg[scan(jpeg) - 1 :],
}


@pytest.mark.parametrize("odd", [*ODD.values(), *BEHIND.values()], ids=[*ODD, *BEHIND])
def test_harmless_oddities_of_jpegs_stay(odd):
    whole = photograph()
    assert odd(whole) != whole and (np.asarray(decode(odd(whole))) == np.asarray(decode(whole))).all()


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_an_odd_header_hides_no_damage(odd):
    whole = photograph()
    assert reason(odd(whole[: len(whole) // 2] + END)) == "corrupt"


NOISE = Image.effect_noise((19, 17), 80)
BODIES = (
    [b"", bytes(65), b"\x10" + bytes(128)]
    + [bytes([bits, 0, 5, 0, width, 1, 1, 0x11, 0]) for bits, width in ((8, 5), (12, 5), (8, 0))]
    + [b"Exif\0\0", b"ICC_PROFILE\0\1\1x", b"MPF\0"]
    + [b"JFIF\0\1\2"[:length] for length in (4, 6, 7)]
    + [b"Adobe\0\1"[:length] for length in (5, 6, 7)]
    + [b"Photoshop 3.0\0", b"Photoshop 3.0\x008BIM\0\0"]
)
SEGMENTS = [segment(marker, body) for marker in range(0xC0, 0xFF) for body in BODIES]
PLAIN = {
    "colour": file_of(NOISE.convert("RGB"), "JPEG"),
    "grey": file_of(NOISE, "JPEG", comment=b"one"),
    "progressive": file_of(NOISE.convert("RGB"), "JPEG", progressive=True, subsampling=0, restart_marker_rows=1),
    "RGB": file_of(NOISE.convert("RGB"), "JPEG", keep_rgb=True, dpi=(72, 72)),
}
UNUSUAL = {
    "CMYK": file_of(NOISE.convert("CMYK"), "JPEG"),
    "EXIF": turned("JPEG"),
    "profile": file_of(NOISE, "JPEG", icc_profile=b"x" * 200),
    "two pictures": file_of(NOISE, "MPO", save_all=True, append_images=[NOISE]),
    "PNG": file_of(NOISE),
}


def both_ways(data, monkeypatch):
    """What becomes of a file with and without our own reading of plain headers."""

    def outcomes():
        for attempt in (decode_with_traits, lambda data: decode_with_traits(data, "apply", "white"), header_of):
            try:
                picture, traits = attempt(data)
            except Rejected as rejected:
                yield rejected.reason
            else:
                yield np.shape(picture), np.asarray(picture).tobytes(), traits

    ours = list(outcomes())
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "_plain_jpeg", lambda data: None)
        return ours, list(outcomes())


def test_plain_headers_are_ours_to_read_and_no_others():
    assert all(map(plain_frame, PLAIN.values())) and not any(map(plain_frame, UNUSUAL.values()))


@pytest.mark.parametrize("options", JPEGS, ids=str)
def test_photographs_come_out_alike_both_ways(options, monkeypatch):
    ours, pillows = both_ways(photograph(**options), monkeypatch)
    assert ours == pillows


@pytest.mark.parametrize("whole", [*PLAIN.values(), *UNUSUAL.values()], ids=[*PLAIN, *UNUSUAL])
def test_headers_that_end_early_come_out_alike_both_ways(whole, monkeypatch):
    for length in range(min(len(whole), 700)):
        ours, pillows = both_ways(whole[:length], monkeypatch)
        assert ours == pillows, length


@pytest.mark.parametrize("whole", PLAIN.values(), ids=PLAIN)
def test_segments_of_every_kind_come_out_alike_both_ways(whole, monkeypatch):
    places = [2, *(found.start() for found in SEGMENT.finditer(whole[: scan(whole)]))]
    for number, more in enumerate(SEGMENTS):
        at = places[number % len(places)]
        ours, pillows = both_ways(whole[:at] + more + whole[at:], monkeypatch)
        assert ours == pillows, more


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([*PLAIN.values(), *UNUSUAL.values()]), st.data())
def test_damaged_headers_come_out_alike_both_ways(monkeypatch, whole, data):
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(len(damaged), 700) - 1))
        patch = data.draw(st.one_of(st.binary(max_size=4), st.sampled_from(SEGMENTS)))
        damaged[at : at + data.draw(st.integers(0, 20))] = patch
    ours, pillows = both_ways(bytes(damaged), monkeypatch)
    assert ours == pillows


def test_sampling_factors_that_have_no_name_are_left_to_pillow():
    """Three times as many columns of luma as of chroma."""
    whole = bytearray(photograph(subsampling="4:4:4"))
    whole[whole.index(b"\xff\xc0") + 11] = 0x31
    pixels = np.asarray(Image.open(io.BytesIO(whole)))
    assert (np.asarray(decode(bytes(whole))) == pixels).all()

import io
import subprocess
import sys

import numpy as np
import pydantic
import pytest
from PIL import Image

from fm.data import open_source, write_shards
from fm.data.preparation import Preparation, encode, prepare, sample_bytes


def test_a_picture_becomes_square_pixels(png):
    sample = prepare(png(0, 24, 20), Preparation(size=8))
    assert sample.pixels.shape == (8, 8, 3) and sample.pixels.dtype == np.uint8
    assert sample[1:] == (None, (24, 20), frozenset())


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_encodings_are_lossless(encoding, png):
    pixels = prepare(png(1), Preparation(size=12)).pixels
    data, start = encode(pixels, encoding)
    back = np.load(io.BytesIO(data)) if encoding == "raw" else np.asarray(Image.open(io.BytesIO(data)))
    assert (back == pixels).all()
    assert encoding == "png" or data[start:] == pixels.tobytes()


def test_a_raw_sample_is_the_file_that_numpy_writes(png):
    for size in (12, 64):
        pixels = prepare(png(1), Preparation(size=size)).pixels
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
        {"size": 32, "low_size": 32},
        {"low_size": 3},
    ],
)
def test_ranges(wrong):
    with pytest.raises(pydantic.ValidationError):
        Preparation(**wrong)


@pytest.mark.parametrize(("size", "due"), [(32, "raw"), (64, "raw"), (65, "png"), (256, "png")])
def test_large_pictures_are_png_where_nothing_else_is_asked(size, due):
    plain = Preparation(size=size)
    assert plain.encoding == plain.identity()["encoding"] == due
    assert plain == Preparation(size=size, encoding=due) == Preparation.model_validate(plain.model_dump())
    for other in ("raw", "png"):
        assert Preparation(size=size, encoding=other).encoding == other


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
        (turn, alpha): prepare(file.getvalue(), Preparation(size=8, exif=turn, alpha=alpha)).pixels[..., 0]
        for turn in ("ignore", "apply")
        for alpha in ("drop", "white")
    }
    for alpha, clear in (("drop", 0), ("white", 255)):
        due = np.tile(np.repeat([clear, 9], 4), (8, 1))
        assert (found["ignore", alpha] == due).all() and (found["apply", alpha] == due.T).all()


def test_a_pair_is_the_picture_and_its_means(png):
    data = png(2, 40, 30)
    sample, alone = prepare(data, Preparation(size=16, low_size=4)), prepare(data, Preparation(size=16))
    assert (sample.pixels == alone.pixels).all() and sample.low.shape == (4, 4, 3)
    means = sample.pixels.reshape(4, 4, 4, 4, 3).mean(axis=(1, 3))
    assert np.abs(sample.low - means).max() <= 1.0


def test_what_changes_no_byte_changes_no_identity():
    plain = Preparation(size=8)
    assert plain.identity() == Preparation(size=8, accept_missing=True).identity()
    assert "low_size" not in plain.identity()
    assert plain.identity() != Preparation(size=8, low_size=4).identity() != Preparation(size=8, low_size=5).identity()


@pytest.mark.parametrize("low_size", [None, 16])
@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_the_estimate_is_about_what_is_written(encoding, low_size, tmp_path):
    settings = Preparation(size=64, low_size=low_size, encoding=encoding)
    manifest = write_shards(open_source("photos:?tiles=40"), tmp_path, settings)
    files = [path for folder in ("shards", "index") for path in (tmp_path / folder).iterdir() if path.suffix != ".json"]
    used = sum(path.stat().st_size for path in files) / manifest.images
    assert 0.9 < sample_bytes(settings) / used < 1.4  # as PNG these are smaller than ImageNet's, being smoother


@pytest.mark.parametrize("turn", ["ignore", "apply"])
def test_a_lack_of_memory_is_no_fault_of_the_picture(turn):
    """In a process that has too little for a sound picture of 48 million pixels."""
    code = f"""
import io, resource
from PIL import Image
from fm.data.preparation import Preparation, prepare
from fm.errors import DataError
file, exif = io.BytesIO(), Image.Exif()
exif[0x0112] = 6
Image.new("RGB", (8000, 6000)).save(file, "PNG", exif=exif)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
for room in (50, {"250" if turn == "apply" else "100"}):
    resource.setrlimit(resource.RLIMIT_AS, (used + room * 2**20, -1))
    try:
        prepare(file.getvalue(), Preparation(size=8, exif="{turn}"))
    except DataError as error:
        assert "not the memory" in str(error)
    else:
        raise SystemExit("prepared without memory")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

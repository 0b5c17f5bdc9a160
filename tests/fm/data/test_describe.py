import importlib
import io

import pytest
from PIL import Image

from fm.data import describe, open_source
from fm.data.describe import LOOKED_AT, NEEDED, _proposed
from fm.data.preparation import Preparation, sample_bytes
from fm.reference import FEWEST
from tests.fm.data import forms


def test_photos():
    summary = describe(open_source("photos:?tiles=6"))
    assert summary.images == 8 * 7 and summary.splits == {"train": 48, "test": 8}
    assert set(summary.classes.values()) == {7} and len(summary.classes) == 8
    assert summary.smallest == (48, 48) and summary.largest == (96, 96) and summary.unreadable == 0
    assert summary.proposed_size == 32 and summary.traits == {}
    assert NEEDED == 4 * FEWEST
    assert summary.notes == ("56 pictures are too few to train a network and to judge it: 80 are due",)
    assert summary.needed_bytes == 56 * sample_bytes(Preparation(size=32)) > 56 * 3 * 32**2


def test_a_folder_with_a_bad_file(folder):
    (folder / "a" / "bad.png").write_bytes(b"?")
    summary = describe(open_source(folder))
    assert summary.images == summary.looked_at == 61 and summary.unreadable == 1
    assert summary.splits == {"none": 61} and summary.classes == {"a": 21, "b": 20, "c": 20}
    assert summary.smallest == summary.median == summary.largest == (24, 20)


def test_files_that_are_passed_over_are_counted(folder):
    for name in ("a/x.jfif", "a/y.JFIF", "b/z.avif", "no-ending", ".hidden"):
        (folder / name).write_bytes(b"?")
    summary = describe(open_source(folder))
    assert summary.images == 60 and summary.passed_over == {"none": 1, ".avif": 1, ".jfif": 2}


def test_a_prepared_data_set(photos):
    summary = describe(open_source(photos))
    assert summary.splits == {"train": 192, "test": 32} and summary.median == (16, 16) and summary.unreadable == 0


def test_traits_are_counted_and_what_can_be_done_is_said(folder):
    exif = Image.Exif()
    exif[0x0112] = 3
    for number in range(3):
        Image.new("RGB", (40, 300)).save(folder / "a" / f"turned-{number}.jpg", exif=exif)
    Image.new("RGBA", (40, 300)).save(folder / "a" / "clear.png")
    Image.new("CMYK", (40, 300)).save(folder / "a" / "print.jpg")
    summary = describe(open_source(folder))
    assert summary.traits == {"exif-rotated": 3, "alpha": 1, "cmyk": 1} and next(iter(summary.traits)) == "exif-rotated"
    _, turned, clear = summary.notes
    assert (
        turned.startswith("3 of 65: its EXIF says that it is to be turned; `--exif apply`") and "--alpha white" in clear
    )


@pytest.mark.parametrize(
    ("side", "count", "due"),
    [(9, 4, 9), (28, 4, 28), (63, 999, 32), (400, 999, 32), (64, 1_000, 64), (400, 99_999, 64), (400, 100_000, 128)],
)
def test_the_size_proposed(side, count, due):
    assert _proposed([side, side, side + 100, 3], count, 128) == due
    assert _proposed([side, side, side + 100, 3], count, 32) == min(32, due)


def test_the_room_needed_is_that_of_the_encoding_that_is_used(tmp_path, monkeypatch):
    Image.new("RGB", (300, 300)).save(tmp_path / "0.png")
    monkeypatch.setattr(importlib.import_module("fm.data.describe"), "LARGEST", ())
    assert describe(open_source(tmp_path)).needed_bytes == sample_bytes(Preparation(size=128, encoding="png"))


def test_counts_that_fall_short_are_said(tmp_path, noises):
    forms.imagenet_train(tmp_path / "ILSVRC2012_img_train.tar", {"n01": noises(2)})
    assert describe(open_source(tmp_path)).notes == ("2 pictures in train, where 1,281,167 are due",)


def test_only_some_pictures_of_many_are_opened(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (5, 4)).save(file, "PNG")
    forms.tar(tmp_path / "x.tar", [(f"{number}.png", file.getvalue()) for number in range(LOOKED_AT + 500)])
    summary = describe(open_source(tmp_path))
    assert (summary.images, summary.looked_at, summary.median) == (LOOKED_AT + 500, LOOKED_AT, (5, 4))

import os
import tracemalloc

import pytest

from fm.data import Preparation, ShardedImages, load_manifest, open_source, write_shards
from fm.data.decode import Rejected
from fm.data.sources.folder import open_uri
from fm.errors import DataError


def fill(root, png, *paths):
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(number))
    return {item.key: (item.label, item.split) for item in open_source(root).items()}


def test_classes_are_the_first_folders(tmp_path, png):
    found = fill(
        tmp_path, png, "cat/1.png", "cat/more/2.JPG", "dog/3.png", "loose.png", ".hidden/x.png", "cat/notes.txt"
    )
    assert found == {
        "cat/1.png": ("cat", None),
        "cat/more/2.JPG": ("cat", None),
        "dog/3.png": ("dog", None),
        "loose.png": (None, None),
    }


def test_a_flat_folder_has_no_labels(tmp_path, png):
    fill(tmp_path / "in", png, *[f"{i}.png" for i in range(8)])
    write_shards(open_source(tmp_path / "in"), tmp_path / "out", Preparation(size=8))
    data = ShardedImages(tmp_path / "out")
    assert data.classes == [] and set(data.labels) == {-1}


def test_splits_are_kept(tmp_path, png):
    found = fill(tmp_path / "a", png, "train/cat/1.png", "val/cat/2.png", "val/dog/3.png")
    assert set(found.values()) == {("cat", "train"), ("cat", "test"), ("dog", "test")}
    found = fill(tmp_path / "b", png, "train/1.png", "val/2.png", "test/3.png")
    assert set(found.values()) == {(None, "train"), (None, "val"), (None, "test")}
    found = fill(tmp_path / "c", png, "train/1.png", "valley/2.png")  # trains and valleys are classes
    assert set(found.values()) == {("train", None), ("valley", None)}


def test_the_digest_follows_names_and_content(tmp_path, png):
    fill(tmp_path, png, "a/1.png", "b/2.png")
    first = open_source(tmp_path).digest()
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    assert open_source(tmp_path).digest() == first
    os.utime(tmp_path / "a" / "1.png", ns=(1, 1))
    second = open_source(tmp_path).digest()
    (tmp_path / "a" / "1.png").rename(tmp_path / "a" / "3.png")
    assert len({first, second, open_source(tmp_path).digest()}) == 3


def test_the_digest_holds_no_listing_in_memory(tmp_path):
    for number in range(3000):
        path = tmp_path / f"{number % 60:02d}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    source = open_source(tmp_path)
    source.digest()
    tracemalloc.start()
    source.digest()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 3000  # a path alone takes that


def test_links_are_followed_and_circles_end(tmp_path, png):
    fill(tmp_path / "real", png, "cat/1.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cat").symlink_to(tmp_path / "real" / "cat")
    (tmp_path / "real" / "cat" / "loop").symlink_to(tmp_path / "in")
    assert [item.key for item in open_source(tmp_path / "in").items()] == ["cat/1.png"]


def test_a_link_to_a_neighbour_is_no_circle(tmp_path, png):
    fill(tmp_path, png, "a/1.png")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "a" / "self").symlink_to(".")
    assert [(item.key, item.label) for item in open_source(tmp_path).items()] == [("a/1.png", "a"), ("b/1.png", "b")]


def test_a_huge_file_is_not_read(tmp_path, png, monkeypatch):
    fill(tmp_path, png, "1.png")
    monkeypatch.setattr("fm.data.sources.folder.MAX_BYTES", 10)
    source = open_source(tmp_path)
    with pytest.raises(Rejected, match="too-large"):
        source.read(source.items()[0])


def test_pipes_and_devices_are_not_read(tmp_path, png):
    fill(tmp_path / "in", png, "a.png")
    os.mkfifo(tmp_path / "in" / "pipe.png")
    (tmp_path / "in" / "zero.png").symlink_to("/dev/zero")
    source = open_source(tmp_path / "in")
    manifest = write_shards(source, tmp_path / "out", Preparation(size=8))
    assert manifest.images == 1 and manifest.rejected == {"not-a-file": 2}


def test_names_that_are_not_utf_8_are_prepared(tmp_path, png):
    (tmp_path / "in").mkdir()
    raw = os.fsencode(tmp_path / "in") + b"/caf\xe9.png"
    with open(raw, "wb") as file:
        file.write(png(0))
    manifest = write_shards(open_source(tmp_path / "in"), tmp_path / "out", Preparation(size=8))
    assert manifest.images == 1 and load_manifest(tmp_path / "out") == manifest


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_folder_that_may_not_be_read(tmp_path, png):
    fill(tmp_path, png, "a/1.png", "b/2.png")
    (tmp_path / "b").chmod(0)
    with pytest.raises(DataError, match="cannot be read"):
        open_uri(str(tmp_path)).items()
    (tmp_path / "b").chmod(0o700)

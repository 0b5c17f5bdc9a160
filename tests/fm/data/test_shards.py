import json
import os
import random
import shutil
import subprocess
import tarfile
from collections import namedtuple
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from fm.data import (
    Preparation,
    ShardedImages,
    add_shards,
    inputs_digest,
    open_source,
    verify,
    write_shards,
)
from fm.data.sources.folder import Folder
from fm.errors import DataError, UserError

SMALL = Preparation(size=8, shard_images=7)


def contents(root):
    """Every file of a data set and its bytes."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def shuffled(function, items):
    """A map that works in another order, through pickling."""
    with ProcessPoolExecutor(2) as pool:
        order = random.Random(0).sample(range(len(items)), len(items))
        futures = {i: pool.submit(function, items[i]) for i in order}
        return [futures[i].result() for i in range(len(items))]


def test_the_bytes_do_not_depend_on_the_map(folder, tmp_path):
    seen = []
    first = write_shards(open_source(folder), tmp_path / "a", SMALL, progress=lambda *counts: seen.append(counts))
    second = write_shards(open_source(folder), tmp_path / "b", SMALL, map=shuffled)
    assert first == second and contents(tmp_path / "a") == contents(tmp_path / "b")
    assert seen == sorted(seen) and seen[-1] == (60, 60)
    assert len(seen) == len(list((tmp_path / "a" / "shards").glob("*.tar")))


def test_an_interrupted_preparation_ends_with_the_same_bytes(folder, tmp_path):
    whole = write_shards(open_source(folder), tmp_path / "whole", SMALL)

    def dies(function, items):
        yield from map(function, islice(items, 4))
        raise KeyboardInterrupt

    root = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        write_shards(open_source(folder), root, SMALL, map=dies)
    assert not (root / "manifest.json").exists()
    (root / "shards" / ".train-000004.tar.123.part").write_bytes(b"half a shard")
    damaged = sorted((root / "shards").glob("*.tar"))[1]
    damaged.write_bytes(damaged.read_bytes()[:-512] + bytes(512 * [1]))
    before = {path: path.stat().st_mtime_ns for path in (root / "shards").glob("*.tar")}
    assert write_shards(open_source(folder), root, SMALL) == whole
    assert contents(root) == contents(tmp_path / "whole")
    assert {path for path, time in before.items() if path.stat().st_mtime_ns != time} == {damaged}


def test_a_finished_data_set_is_kept_and_repaired(folder, tmp_path):
    first = write_shards(open_source(folder), tmp_path / "out", SMALL)
    assert first.inputs == inputs_digest(open_source(folder), SMALL)
    target = tmp_path / "out" / "shards" / "train-000003.tar"
    times = {path: path.stat().st_mtime_ns for path in target.parent.iterdir()}
    assert write_shards(open_source(folder), tmp_path / "out", SMALL) == first
    assert times == {path: path.stat().st_mtime_ns for path in target.parent.iterdir()}
    for path in (target, target.with_suffix(".idx"), tmp_path / "out" / "index" / "train-000002.json"):
        path.unlink()
        assert write_shards(open_source(folder), tmp_path / "out", SMALL) == first == verify(tmp_path / "out")
        assert path.is_file()


def test_another_data_set_is_never_half_overwritten(folder, tmp_path, png):
    root = tmp_path / "out"
    write_shards(open_source(folder), root, SMALL)
    before = contents(root)
    with pytest.raises(DataError, match="another source or with other settings"):
        write_shards(open_source(folder), root, Preparation(size=16, shard_images=7))
    (folder / "a" / "new.png").write_bytes(png(99))
    with pytest.raises(DataError, match="another source"):
        write_shards(open_source(folder), root, SMALL)
    assert contents(root) == before
    (root / "manifest.json").unlink()
    (root / "index" / "begun.json").unlink()
    manifest = write_shards(open_source(folder), root, Preparation(size=16))
    assert verify(root) == manifest and manifest.images == 61
    assert len(list((root / "shards").glob("*.tar"))) == 2  # the smaller shards of before are gone


def test_unreadable_pictures_are_counted_and_listed(folder, tmp_path):
    (folder / "a" / "00.png").write_bytes(b"")
    (folder / "b" / "01.png").write_bytes((folder / "b" / "01.png").read_bytes()[:300])
    (folder / "c" / "text.jpg").write_text("not a picture")
    (folder / "c" / "gone.jpg").symlink_to(folder / "nowhere")
    manifest = write_shards(open_source(folder), tmp_path / "out", SMALL)
    rows = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    due = {"a/00.png": "empty", "b/01.png": "truncated", "c/text.jpg": "not-an-image", "c/gone.jpg": "unreadable"}
    assert {row["key"]: row["reason"] for row in rows} == due
    assert manifest.rejected == dict.fromkeys(sorted(due.values()), 1) and manifest.images == 58
    assert len(ShardedImages(tmp_path / "out")) == 58


def test_a_reject_moves_nothing_else(folder, tmp_path):
    """Every other sample keeps its shard and its key."""

    def places(root):
        return {sample["key"]: (sample["tar"], sample["member"]) for sample in samples(root)}

    write_shards(open_source(folder), tmp_path / "whole", SMALL)
    (folder / "a" / "00.png").write_bytes(b"")
    write_shards(open_source(folder), tmp_path / "less", SMALL)
    whole, less = places(tmp_path / "whole"), places(tmp_path / "less")
    del whole["a/00.png"]
    assert whole == less


def test_a_shard_of_rejects_alone_is_left_out(folder, tmp_path):
    for path in sorted(folder.rglob("*.png"))[1:]:
        path.write_bytes(b"")
    manifest = write_shards(open_source(folder), tmp_path / "out", SMALL)
    assert manifest.images == 1 and len(ShardedImages(tmp_path / "out")) == 1
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"not one of its 60 images can be read \(60 empty\)"):
        write_shards(open_source(folder), tmp_path / "none", SMALL)
    assert not (tmp_path / "none" / "manifest.json").exists()


def test_a_folder_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot make this folder"):
        write_shards(open_source(folder), tmp_path / "file" / "out", SMALL)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_write_permission(folder, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match="no write permission"):
        write_shards(open_source(folder), tmp_path / "locked", SMALL)


def test_a_full_disk_is_said_before_the_start(folder, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(DataError, match="60 images need about"):
        write_shards(open_source(folder), tmp_path / "out", SMALL)


def test_raw_shards_mix_the_classes(folder, tmp_path):
    """Plain streaming of one shard already sees several classes."""
    write_shards(open_source(folder), tmp_path, Preparation(size=8, shard_images=20))
    assert len(np.unique(ShardedImages(tmp_path, "train").labels[:20])) == 3


@dataclass(frozen=True)
class Counted(Folder):
    """A folder that is known to hold 60 pictures for training."""

    def found(self):
        return (replace(item, split="train") for item in super().found())

    def expected(self):
        return {"train": 60}


def test_a_set_of_known_size_is_not_finished_without_all_its_pictures(folder, tmp_path):
    source, out = Counted(uri="counted", root=folder), tmp_path / "out"
    whole = write_shards(source, tmp_path / "whole", SMALL)
    assert whole.origins[0].missing == {}
    good = (folder / "a" / "00.png").read_bytes()
    (folder / "a" / "00.png").write_bytes(good[:300])
    with pytest.raises(DataError, match=r"59 readable pictures in train where 60 are due \(1 truncated: see "):
        write_shards(source, out, SMALL)
    assert json.loads((out / "rejected.jsonl").read_text())["key"] == "a/00.png"
    assert not (out / "manifest.json").exists()
    times = {path.name: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}
    accepted = write_shards(source, out, SMALL.model_copy(update={"accept_missing": True}))
    assert accepted.origins[0].missing == {"train": 1} and accepted.images == 59 and accepted.settings == SMALL
    (out / "manifest.json").unlink()
    (folder / "a" / "00.png").write_bytes(good)
    mended = write_shards(source, out, SMALL)
    assert mended.digest == whole.digest and contents(out / "shards") == contents(tmp_path / "whole" / "shards")
    after = {path.name: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}
    assert len({name.split(".")[0] for name in times if times[name] != after[name]}) == 1  # the others are kept


def test_shards_of_other_options_do_not_give_way_without_a_word(folder, tmp_path):
    out = tmp_path / "out"
    whole = write_shards(open_source(folder), out, SMALL)
    (out / "manifest.json").unlink()  # as if it had been broken off
    before = contents(out)
    with pytest.raises(DataError, match=r"was begun otherwise \(size 8, now 16\), and its shards would be replaced"):
        write_shards(open_source(folder), out, SMALL.model_copy(update={"size": 16}))
    with pytest.raises(DataError, match=r"was begun otherwise \(source .*pictures\)"):
        write_shards(open_source(folder / "a"), out, SMALL)
    assert contents(out) == before
    (tmp_path / "early" / "index").mkdir(parents=True)
    shutil.copy(out / "index" / "begun.json", tmp_path / "early" / "index")  # ended before the first shard
    assert write_shards(open_source(folder / "a"), tmp_path / "early", Preparation(size=16)).images == 20
    moved = folder.rename(tmp_path / "moved")  # the same pictures elsewhere
    assert write_shards(open_source(moved), out, SMALL).digest == whole.digest
    shutil.copy(out / "shards" / "test-000000.tar", out / "shards" / "extra.tar")
    with pytest.raises(DataError, match=r"shards/extra\.tar was not written by `fm prepare`; move it"):
        verify(out)


def test_what_the_listing_lacks_is_said_before_the_work(folder, tmp_path):
    (folder / "a" / "00.png").unlink()
    with pytest.raises(DataError, match="59 readable pictures in train where 60 are due; fetch or mend"):
        write_shards(Counted(uri="counted", root=folder), tmp_path / "out", SMALL)
    assert not list((tmp_path / "out" / "index").glob("*.npy")) and not (tmp_path / "out" / "shards").exists()


def samples(root):
    """The JSON of every sample, and where it lies."""
    for path in sorted((root / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    yield json.load(tar.extractfile(member)) | {"tar": path.name, "member": member.name}


def more(root, names, first, count, png):
    """Pictures in classes of these names."""
    for number in range(first, first + count):
        path = root / names[number % len(names)] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return root


def test_a_further_source_comes_behind_what_is_there(folder, tmp_path, png):
    root = tmp_path / "out"
    first = write_shards(open_source(folder), root, SMALL)
    before = contents(root)
    old = {split: list(ShardedImages(root, split)) for split in first.splits}
    source = open_source(more(tmp_path / "more", "bd", 100, 30, png))
    (tmp_path / "more" / "d" / "101.png").write_bytes(b"")
    second = add_shards(source, root)
    assert verify(root) == second and second.images == 60 + 29 and second.digest != first.digest
    assert second.classes == ("a", "b", "c", "d") and second.source == first.source and second.inputs == first.inputs
    after = contents(root)
    assert {name: after[name] for name in before if name != "manifest.json" and name != "rejected.jsonl"} == {
        name: data for name, data in before.items() if name != "manifest.json" and name != "rejected.jsonl"
    }
    for split, images in old.items():
        data = ShardedImages(root, split)
        assert all((a == c).all() and b == d for (a, b), (c, d) in zip(images, data, strict=False))
        assert data.manifest.splits[split].shards[: len(first.splits[split].shards)] == first.splits[split].shards
    keys = [sample["key"] for sample in samples(root)]
    assert len(keys) == len({*keys}) == len({*(sample["member"] for sample in samples(root))}) == 89
    assert sum(sum(split.class_images) for split in second.splits.values()) == 89
    assert [origin.source for origin in second.origins] == [str(folder), str(tmp_path / "more")]
    for again in (lambda: add_shards(source, root), lambda: write_shards(open_source(folder), root, SMALL)):
        assert again() == second and contents(root) == after
    assert add_shards(open_source(folder), root) == second and contents(root) == after


def test_each_source_repairs_its_own_shards(folder, tmp_path, png):
    root = tmp_path / "out"
    source, first = open_source(more(tmp_path / "more", "abc", 100, 30, png)), open_source(folder)
    write_shards(first, root, SMALL)
    whole = add_shards(source, root)
    due, last = contents(root), whole.splits["train"].shards[-1].name
    (root / "shards" / f"{last}.tar").unlink()
    write_shards(first, root, SMALL)  # says nothing of the other's
    with pytest.raises(DataError, match=f"shards/{last}.tar is missing"):
        verify(root)
    assert add_shards(source, root) == whole and contents(root) == due
    (root / "index" / "train-000000.json").unlink()
    with pytest.raises(DataError, match=r"index/train-000000.json is missing .*; prepare the source that it came from"):
        add_shards(source, root)
    assert write_shards(first, root, SMALL) == whole and contents(root) == due


def test_an_addition_that_is_killed_leaves_the_data_set_as_it_was(folder, tmp_path, png):
    root = tmp_path / "out"
    first = write_shards(open_source(folder), root, SMALL)
    source = open_source(more(tmp_path / "more", "abc", 100, 30, png))

    def dies(function, items):
        yield from map(function, islice(items, 2))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_shards(source, root, map=dies)
    assert verify(root) == first and len(ShardedImages(root)) == 60
    killed = add_shards(source, root)
    write_shards(open_source(folder), tmp_path / "other", SMALL)
    assert add_shards(source, tmp_path / "other") == killed and contents(root) == contents(tmp_path / "other")


def test_a_source_that_has_changed_is_not_added_again(folder, tmp_path, png, monkeypatch):
    root = tmp_path / "out"
    write_shards(open_source(folder), root, SMALL)
    add_shards(open_source(more(tmp_path / "more", "abc", 100, 30, png)), root)
    before = contents(root)
    monkeypatch.chdir(tmp_path)
    for uri in (folder, "more"):
        more(tmp_path / uri, "abc", 200, 1, png)
        with pytest.raises(DataError, match=f"{uri}: has changed since it was made part of the .* new pictures alone"):
            add_shards(open_source(uri), root)
    assert contents(root) == before


def test_labels_are_never_renumbered(folder, tmp_path, png):
    write_shards(open_source(folder), tmp_path / "out", SMALL)
    before = contents(tmp_path / "out")
    source = open_source(more(tmp_path / "more", ("b", "bb"), 100, 6, png))
    with pytest.raises(DataError, match="its class 'bb' would come before 'c' of the data set, whose labels it would"):
        add_shards(source, tmp_path / "out")
    with pytest.raises(DataError, match="no prepared data set here"):
        add_shards(source, tmp_path / "none")
    (tmp_path / "more" / "bb" / "101.png").write_bytes(b"")
    short = Counted(uri="short", root=folder / "a")
    with pytest.raises(DataError, match="20 readable pictures in train where 60 are due; fetch"):
        add_shards(short, tmp_path / "out")
    after = contents(tmp_path / "out")
    assert after.pop("refused.jsonl") == b"" and after == before


def test_the_manifest_says_what_is_in_it(folder, tmp_path):
    Image.fromarray(np.full((9, 9), 255, np.uint8)).save(folder / "a" / "grey.png")
    Image.fromarray(np.zeros((9, 9, 4), np.uint8)).save(folder / "c" / "alpha.png")
    manifest = write_shards(open_source(folder), tmp_path / "out", SMALL)
    assert manifest.traits == {"alpha": 1, "grey": 1}
    assert (
        manifest.origins[0].digest == open_source(folder).digest() and sum(manifest.origins[0].planned.values()) == 62
    )
    for name, split in manifest.splits.items():
        data = ShardedImages(tmp_path / "out", name)
        images = data.gather(range(len(data))).reshape(-1, 3)
        assert split.mean == pytest.approx(images.mean(axis=0)) and split.std == pytest.approx(images.std(axis=0))
        assert split.class_images == tuple(np.bincount(data.labels, minlength=3).tolist())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True)
    if made.returncode:
        pytest.skip("only root may mount a file system")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_fills_up_keeps_what_is_whole(folder, tmp_path, png, small_disk, monkeypatch):
    first = write_shards(open_source(folder), small_disk / "out", SMALL)
    source = open_source(more(tmp_path / "more", "abc", 100, 90, png))
    with pytest.raises(DataError, match=r"90 images need about 0\.3 MB and 0\.2 MB are free; choose a folder"):
        add_shards(source, small_disk / "out")
    monkeypatch.setattr("fm.data.shards._check_space", lambda plan: None)  # as if others filled it in the meantime
    with pytest.raises(DataError, match=r"shard train-\d+ cannot be written \(No space left on device\)"):
        add_shards(source, small_disk / "out")
    assert verify(small_disk / "out") == first and not list((small_disk / "out" / "shards").glob(".*"))


def test_two_at_once_are_refused(folder, tmp_path):
    def meanwhile(function, items):
        with pytest.raises(UserError, match="another run is at work here"):
            write_shards(open_source(folder), tmp_path / "out", SMALL)
        return map(function, items)

    assert write_shards(open_source(folder), tmp_path / "out", SMALL, map=meanwhile).images == 60

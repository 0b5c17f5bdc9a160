import json
import os
import pickle
import random
import shutil
import tarfile
from collections import namedtuple
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest

from fm.data import (
    Preparation,
    ShardedImages,
    inputs_digest,
    load_manifest,
    open_source,
    verify,
    write_shards,
)
from fm.data.shards import write_shard
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


def test_plain_webdataset_reads_the_shards(folder, tmp_path):
    import webdataset

    for encoding, decoder in (("raw", None), ("png", "rgb8")):
        root = tmp_path / encoding
        manifest = write_shards(open_source(folder), root, Preparation(size=8, shard_images=7, encoding=encoding))
        urls = [str(root / "shards" / f"{s.name}.tar") for s in manifest.splits["train"].shards]
        dataset = webdataset.WebDataset(urls, shardshuffle=False)
        samples = list(dataset.decode(decoder) if decoder else dataset.decode())
        data = ShardedImages(root, "train")
        assert len(samples) == len(data) == len({sample["__key__"] for sample in samples})
        for (image, label), sample in zip(data, samples, strict=True):
            assert (sample["npy" if encoding == "raw" else "png"] == image).all() and sample["cls"] == label
            assert sample["json"]["class"] == data.classes[label] == sample["json"]["key"][0]
            assert (sample["json"]["width"], sample["json"]["height"]) == (24, 20)


def test_the_bytes_do_not_depend_on_the_map(folder, tmp_path):
    seen = []
    first = write_shards(open_source(folder), tmp_path / "a", SMALL, progress=lambda *counts: seen.append(counts))
    second = write_shards(open_source(folder), tmp_path / "b", SMALL, map=shuffled)
    assert first == second and contents(tmp_path / "a") == contents(tmp_path / "b")
    assert seen == sorted(seen) and seen[-1] == (60, 60)
    assert len(seen) == len(list((tmp_path / "a" / "shards").iterdir()))


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
    target.unlink()
    assert write_shards(open_source(folder), tmp_path / "out", SMALL) == first == verify(tmp_path / "out")


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
    manifest = write_shards(open_source(folder), root, Preparation(size=16), replace=True)
    assert verify(root) == manifest and manifest.images == 61
    assert len(list((root / "shards").iterdir())) == 2  # the smaller shards of before are gone


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
        found = {}
        for path in (root / "shards").glob("*.tar"):
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.name.endswith(".json"):
                        key = json.load(tar.extractfile(member))["key"]
                        found[key] = (path.name, member.name)
        return found

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


def test_a_disk_that_fills_up_names_the_shard(folder, tmp_path, monkeypatch):
    def full(self, name, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fm.data.ustar.UstarWriter.add", full)
    with pytest.raises(DataError, match=r"shard test-000000 cannot be written \(No space left on device\)"):
        write_shards(open_source(folder), tmp_path / "out", SMALL)
    assert not list((tmp_path / "out" / "shards").iterdir())


def test_raw_shards_mix_the_classes(folder, tmp_path):
    """Plain streaming of one shard already sees several classes."""
    write_shards(open_source(folder), tmp_path, Preparation(size=8, shard_images=20))
    assert len(np.unique(ShardedImages(tmp_path, "train").labels[:20])) == 3


@dataclass(frozen=True)
class Counted(Folder):
    """A folder that is known to hold 60 pictures."""

    def expected(self):
        return {"train": 60}


def test_a_set_of_known_size_is_not_finished_without_all_its_pictures(folder, tmp_path):
    source, out = Counted(uri="counted", root=folder), tmp_path / "out"
    whole = write_shards(source, tmp_path / "whole", SMALL)
    assert whole.missing == {}
    good = (folder / "a" / "00.png").read_bytes()
    (folder / "a" / "00.png").write_bytes(good[:300])
    with pytest.raises(
        DataError, match=r"59 readable pictures in train where 60 are due \(1 truncated: see "
    ):
        write_shards(source, out, SMALL)
    assert json.loads((out / "rejected.jsonl").read_text())["key"] == "a/00.png"
    assert not (out / "manifest.json").exists()
    times = {path.name: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}
    accepted = write_shards(source, out, SMALL.model_copy(update={"accept_missing": True}))
    assert accepted.missing == {"train": 1} and accepted.images == 59 and accepted.settings == SMALL
    (out / "manifest.json").unlink()
    (folder / "a" / "00.png").write_bytes(good)
    mended = write_shards(source, out, SMALL)
    assert mended.digest == whole.digest and contents(out / "shards") == contents(tmp_path / "whole" / "shards")
    after = {path.name: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}
    assert len([name for name in times if times[name] != after[name]]) == 1  # the others are kept


def test_what_the_listing_lacks_is_said_before_the_work(folder, tmp_path):
    (folder / "a" / "00.png").unlink()
    with pytest.raises(DataError, match="59 readable pictures in train where 60 are due; fetch or mend"):
        write_shards(Counted(uri="counted", root=folder), tmp_path / "out", SMALL)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rejected.jsonl"]


def test_work_is_picklable_and_knows_its_place(folder, tmp_path, monkeypatch):
    parts = []
    monkeypatch.chdir(tmp_path)

    def carried(function, items):
        parts.extend(items)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(open_source("pictures"), "out", SMALL, map=carried)
    monkeypatch.chdir("/")
    finished = write_shard(pickle.loads(pickle.dumps(parts[0])))
    assert finished.shard.images == len(parts[0].items) and (tmp_path / "out" / "shards").is_dir()
    with pytest.raises(DataError, match="no prepared data set"):
        load_manifest(tmp_path / "out")

import copy
import errno
import multiprocessing
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import fsspec
import numpy as np
import pytest

from fm.data import Preparation, ShardedImages, batches, load_manifest, open_source, staging, write_shards
from fm.errors import DataError


@pytest.fixture(scope="module")
def png(tmp_path_factory):
    root = tmp_path_factory.mktemp("png")
    write_shards(open_source("photos:?tiles=24"), root, Preparation(size=16, shard_images=50, encoding="png"))
    return root


@pytest.fixture
def address(photos):
    """The data set in fsspec's memory."""
    for path in photos.rglob("*"):
        if path.is_file():
            with fsspec.open(f"memory://data/{path.relative_to(photos)}", "wb") as file:
                file.write(path.read_bytes())
    yield "memory://data"
    fsspec.filesystem("memory").rm("/data", recursive=True)


@pytest.fixture
def fetched(monkeypatch):
    """The addresses that are read."""
    seen, read = [], staging.read_pieces
    monkeypatch.setattr(staging, "read_pieces", lambda address: seen.append(address) or read(address))
    return seen


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files in which SHA-256 are compared."""
    seen = []
    for name, compare in (("sha256", staging.sha256), ("_agrees", staging._agrees)):
        monkeypatch.setattr(
            staging, name, lambda path, *more, compare=compare: seen.append(path.name) or compare(path, *more)
        )
    return seen


def files(cache):
    """What is staged, without locks and notes."""
    found = (path for path in cache.rglob("*") if path.is_file())
    return sorted(path.name for path in found if path.name != ".lock" and path.parent.name != "whole")


def flip(path, place=600):
    """Another byte there, a second later."""
    data, changed_ns = bytearray(path.read_bytes()), path.stat().st_mtime_ns + 10**9
    data[place] ^= 255
    path.write_bytes(data)
    os.utime(path, ns=(changed_ns, changed_ns))


def test_an_address_is_read_like_a_folder_and_each_file_fetched_once(photos, address, fetched, tmp_path):
    data, due = ShardedImages(address, "train", cache=tmp_path), ShardedImages(photos, "train")
    assert len(data) == 192 and data.digest == due.digest and files(tmp_path) == []
    assert (data[3][0] == due[3][0]).all() and data[3][1] == due[3][1]
    assert files(tmp_path) == ["train-000000.npy", "train-000000.tar"]
    assert (data.gather(range(192)) == due.gather(range(192))).all() and (data.labels == due.labels).all()
    assert len(fetched) == len(set(fetched)) == 8
    assert (ShardedImages(address, "train", cache=tmp_path).gather(range(192)) == due.gather(range(192))).all()
    assert len(fetched) == 8


def test_blocks_leave_no_more_than_the_window_on_the_disk(photos, address, tmp_path):
    stream = batches(ShardedImages(address, "train", cache=tmp_path), 10, window_shards=2)
    due = batches(ShardedImages(photos, "train"), 10, window_shards=2)
    for _ in range(60):
        assert (next(stream).images == next(due).images).all()
        assert len(files(tmp_path)) <= 2 * 2


def _sum(job):
    root, cache = job
    return int(ShardedImages(f"file://{root}", cache=cache).gather(range(224)).sum())


def test_processes_of_a_node_stage_together(photos, png, tmp_path):
    for root in (photos, png):
        with ProcessPoolExecutor(3) as pool:
            sums = set(pool.map(_sum, [(root, tmp_path / root.name)] * 3))
        assert sums == {int(ShardedImages(photos).gather(range(224)).sum())}
        assert not [name for name in files(tmp_path) if name.endswith(".part")]


def _rank(rank, window, root, cache, due):
    """Without lockstep: each rank waits elsewhere."""
    data = ShardedImages(f"file://{root}", "train", cache=cache)
    for step, batch in enumerate(islice(batches(data, 40, rank, 3, window_shards=window, ahead=2), 20)):
        time.sleep(0.02 * (step % 3 == rank))
        assert (batch.images.permute(0, 2, 3, 1).numpy() == due[batch.indices]).all()


@pytest.mark.parametrize("window", [1, 2])
def test_ranks_of_a_node_share_a_cache_from_which_shards_go(tmp_path, window):
    write_shards(open_source("photos:?tiles=24"), tmp_path / "data", Preparation(size=16, shard_images=16))
    due = ShardedImages(tmp_path / "data", "train").gather(range(192))
    fork = multiprocessing.get_context("fork")
    args = (window, tmp_path / "data", tmp_path / "cache", due)
    ranks = [fork.Process(target=_rank, args=(rank, *args)) for rank in range(3)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0, 0]


def test_what_another_keeps_is_not_dropped(address, fetched, tmp_path):
    one = ShardedImages(address, "train", cache=tmp_path)
    other = copy.copy(one)
    one.keep({0, 1})
    other.keep({1})
    one.gather([0, 60])
    one.keep({2})
    assert files(tmp_path) == ["train-000001.npy", "train-000001.tar"]
    assert other[60][0].shape == (16, 16, 3) and len(fetched) == 4
    other.keep({2})
    assert files(tmp_path) == []


def test_all_that_is_staged_of_a_shard_is_known_and_whether_somebody_uses_it(address, png, tmp_path):
    for name, root in (("raw", address), ("png", f"file://{png}")):
        images = ShardedImages(root, "test", cache=tmp_path / name)
        images.gather(range(len(images)))
        folder = tmp_path / name / images.digest
        with images._files.hold(images._shards[0]), staging.unused(folder, "test-000000") as free:
            assert not free
        with staging.unused(folder, "test-000000") as free:
            assert free
            with staging.unused(folder, "test-000000") as again:
                assert not again
        shards = [shard.name for shard in images._shards]
        known = {path for shard in shards for path in staging.staged(folder, shard)}
        there = {path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
        assert there <= known and len(there) >= 3 * len(shards)


def test_what_killed_stagers_left_goes(address, tmp_path):
    images = ShardedImages(address, "test", cache=tmp_path)
    part = tmp_path / images.digest / "shards" / ".test-000000.tar.1.part"
    part.parent.mkdir(parents=True)
    part.touch()
    assert images[0][0].shape == (16, 16, 3) and not part.exists()


def test_a_changed_byte_in_data_is_refused_and_nothing_is_hashed_twice(photos, tmp_path, hashed):
    root = Path(shutil.copytree(photos, tmp_path / "copy"))
    for due in (["test-000000.tar"], []):  # the second opening is as of another process
        hashed.clear()
        ShardedImages(root, "test")[0]
        assert hashed == due
    flip(root / "shards" / "test-000000.tar")
    with pytest.raises(DataError, match=r"^[^\n]*/copy: shards/test-000000.tar is missing or does not match[^\n]*$"):
        ShardedImages(root, "test")[0]


def test_one_of_many_threads_fetches(address, fetched, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: ShardedImages(address, cache=tmp_path)[7][1], range(8)))) == 1
    assert len(fetched) == 2


def test_what_is_damaged_in_the_cache_is_staged_again(photos, address, fetched, hashed, tmp_path):
    def again():
        fetched.clear()
        data = ShardedImages(address, "test", cache=tmp_path)
        assert (data.gather(range(32)) == ShardedImages(photos, "test").gather(range(32))).all()
        return [name.rpartition(".")[2] for name in fetched]

    assert again() == ["tar", "npy"]
    tar, index = (next(tmp_path.glob(f"*/{kind}")) for kind in ("shards/*.tar", "index/*.npy"))
    os.truncate(tar, 1000)
    assert again() == ["tar"]
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    assert again() == ["npy"]
    flip(tar)
    hashed.clear()
    assert again() == ["tar"] and again() == [] and hashed.count(tar.name) == 1


def test_what_is_damaged_at_the_address_is_never_staged(address, tmp_path):
    with fsspec.open(f"{address}/shards/test-000000.tar", "rb") as file:
        data = file.read()
    with fsspec.open(f"{address}/shards/test-000000.tar", "wb") as file:
        file.write(data[:-1] + b"x")
    images = ShardedImages(address, "test", cache=tmp_path)
    with pytest.raises(DataError, match=r"^memory://data/shards/test-000000.tar: is not what was written"):
        images[0]
    assert files(tmp_path) == []
    fsspec.filesystem("memory").rm("/data/index/test-000000.npy")
    with pytest.raises(DataError, match=r"^memory://data/index/test-000000.npy: no such file$"):
        _ = images.labels


def test_no_room_is_one_sentence(address, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fm.files.os.fsync", full)
    with pytest.raises(DataError, match=r"tar: cannot be written .No space left on device.; make room or name another"):
        ShardedImages(address, cache=tmp_path)[0]
    assert files(tmp_path) == []
    monkeypatch.setenv("FM_CACHE", str(tmp_path / "full"))
    with pytest.raises(DataError, match=r"/full/.*No space left on device"):
        ShardedImages(address)[0]
    with pytest.raises(DataError, match=r"^memory://nothing/manifest.json: no such file$"):
        load_manifest("memory://nothing")


def test_png_is_decoded_once_into_a_cache(png, photos, tmp_path, monkeypatch, hashed):
    due = ShardedImages(photos, "train").gather(range(192))
    hashed.clear()
    assert (ShardedImages(png, "train", cache=tmp_path).gather(range(192)) == due).all()
    assert files(tmp_path) == [f"train-{i:06d}.raw" for i in range(4)]
    monkeypatch.setattr("fm.data.images._pixels", None)
    assert (ShardedImages(png, "train", cache=tmp_path).gather(range(192)) == due).all()
    kept = tmp_path / load_manifest(png).digest / "pixels" / "train-000002.raw"
    assert hashed == [f"train-{i:06d}.tar" for i in range(4)]
    flip(kept)
    monkeypatch.undo()
    assert (ShardedImages(png, "train", cache=tmp_path).gather(range(192)) == due).all()


def test_a_changed_tar_is_not_decoded_into_a_cache(png, tmp_path):
    root = shutil.copytree(png, tmp_path / "copy")
    tar = root / "shards" / "train-000001.tar"
    tar.write_bytes(np.frombuffer(tar.read_bytes(), np.uint8)[::-1].tobytes())
    with pytest.raises(DataError, match=r"copy: shards/train-000001.tar is missing or does not match the manifest"):
        ShardedImages(root, "train", cache=tmp_path / "cache").gather(range(192))

import errno
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

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


def files(cache):
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path.name != ".lock")


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


def test_one_of_many_threads_fetches(address, fetched, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: ShardedImages(address, cache=tmp_path)[7][1], range(8)))) == 1
    assert len(fetched) == 2


def test_what_is_damaged_in_the_cache_is_staged_again(photos, address, fetched, tmp_path):
    def again(check=False):
        fetched.clear()
        data = ShardedImages(address, "test", cache=tmp_path, check=check)
        assert (data.gather(range(32)) == ShardedImages(photos, "test").gather(range(32))).all()
        return [name.rpartition(".")[2] for name in fetched]

    assert again() == ["tar", "npy"]
    tar, index = (next(tmp_path.rglob(f"*.{kind}")) for kind in ("tar", "npy"))
    os.truncate(tar, 1000)
    assert again() == ["tar"]
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    assert again() == ["npy"]
    tar.write_bytes(b"x" + tar.read_bytes()[1:])
    assert again() == [] and again(check=True) == ["tar"]


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


def test_png_is_decoded_once_into_a_cache(png, photos, tmp_path, monkeypatch):
    due = ShardedImages(photos, "train").gather(range(192))
    assert (ShardedImages(png, "train", cache=tmp_path).gather(range(192)) == due).all()
    assert files(tmp_path) == [f"train-{i:06d}.raw" for i in range(4)]
    monkeypatch.setattr("fm.data.images._pixels", None)
    assert (ShardedImages(png, "train", cache=tmp_path).gather(range(192)) == due).all()
    kept = tmp_path / load_manifest(png).digest / "pixels" / "train-000002.raw"
    kept.write_bytes(b"x" + kept.read_bytes()[1:])
    monkeypatch.undo()
    assert (ShardedImages(png, "train", cache=tmp_path).gather(range(192)) != due).any()
    assert (ShardedImages(png, "train", cache=tmp_path, check=True).gather(range(192)) == due).all()


def test_a_changed_tar_is_not_decoded_into_a_cache(png, tmp_path):
    root = shutil.copytree(png, tmp_path / "copy")
    tar = root / "shards" / "train-000001.tar"
    tar.write_bytes(np.frombuffer(tar.read_bytes(), np.uint8)[::-1].tobytes())
    with pytest.raises(DataError, match=r"copy: shards/train-000001.tar is missing or does not match the manifest"):
        ShardedImages(root, "train", cache=tmp_path / "cache").gather(range(192))

import io
import os
import pickle
import shutil
import tarfile

import numpy as np
import pytest
import torch

from fm.data import Preparation, ShardedImages, load_manifest, open_source, write_shards
from fm.errors import DataError, SettingsError


def test_images_are_those_in_the_tars(photos):
    data = ShardedImages(photos, "test")
    with tarfile.open(photos / "shards" / "test-000000.tar") as tar:
        names = sorted(m.name for m in tar if m.name.endswith(".npy"))
        assert len(data) == len(names) == 32
        for i, name in enumerate(names):
            image, label = data[i]
            assert (image == np.load(io.BytesIO(tar.extractfile(name).read()))).all() and image.shape == (16, 16, 3)
            assert label == int(tar.extractfile(name.replace(".npy", ".cls")).read())


def test_gather_is_item_by_item_across_shards(photos):
    data = ShardedImages(photos, "train")
    indices = np.random.default_rng(0).integers(0, len(data), 100)
    assert (data.gather(indices) == np.stack([data[int(i)][0] for i in indices])).all()
    assert data.gather([]).shape == (0, 16, 16, 3)
    assert (data[-1][0] == data[191][0]).all()
    with pytest.raises(IndexError):
        data[192]


def test_indices_may_come_in_any_kind(photos):
    data = ShardedImages(photos)
    for indices in (torch.tensor([3, 1]), (3, 1), np.array([3, 1], np.int32)):
        assert (data.gather(indices) == np.stack([data[3][0], data[1][0]])).all()
    with pytest.raises(DataError, match="holds no pairs; prepare it with `--low-size`"):
        data.low([0])


def test_png_gives_the_same_pixels_as_raw(photos, tmp_path):
    settings = Preparation(size=16, shard_images=50, encoding="png")
    write_shards(open_source("photos:?tiles=24"), tmp_path, settings)
    png, raw = ShardedImages(tmp_path, "train"), ShardedImages(photos, "train")
    assert (png.gather(range(192)) == raw.gather(range(192))).all() and (png.labels == raw.labels).all()


def test_no_split_means_all(photos):
    manifest, data = load_manifest(photos), ShardedImages(photos)
    assert len(data) == manifest.images and data.digest == manifest.digest
    assert data.shape == (3, 16, 16) and data.classes[int(data.labels[0])] in manifest.classes
    assert len(data) == len(list(data))


def test_it_travels_without_its_memory_maps(photos):
    data = ShardedImages(photos, "train")
    data.gather(range(192))
    carried = pickle.dumps(data)
    assert len(carried) < 20_000
    assert (pickle.loads(carried)[7][0] == data[7][0]).all()


def test_a_map_holds_no_file_open(photos):
    data, before = ShardedImages(photos), len(os.listdir("/proc/self/fd"))
    data.gather(range(224))
    assert len(data._open) == 5 and len(os.listdir("/proc/self/fd")) == before
    data.keep({1, 3})
    assert data._open.keys() == {1, 3} and (data[0][0] == ShardedImages(photos)[0][0]).all()


def test_threads_decode_the_same(photos, tmp_path):
    write_shards(open_source("photos:?tiles=24"), tmp_path, Preparation(size=16, shard_images=50, encoding="png"))
    one, many = (ShardedImages(tmp_path, threads=threads).gather(range(2, 224)) for threads in (1, 3))
    assert (one == many).all() and len(ShardedImages(tmp_path, threads=3).gather([5])) == 1


def test_bad_input_is_one_sentence(photos, tmp_path):
    with pytest.raises(DataError, match=r"no split 'tets'.*did you mean 'test'"):
        ShardedImages(photos, "tets")
    with pytest.raises(SettingsError, match=r"^0 threads cannot decode; use at least 1$"):
        ShardedImages(photos, threads=0)
    with pytest.raises(DataError, match=r"no prepared data set"):
        ShardedImages(tmp_path)
    copy = shutil.copytree(photos, tmp_path / "copy")
    with open(copy / "shards" / "train-000001.tar", "ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match=r"shards/train-000001.tar does not match the manifest"):
        ShardedImages(copy)
    (copy / "shards" / "train-000001.tar").unlink()
    with pytest.raises(DataError, match=r"shards/train-000001.tar is missing"):
        ShardedImages(copy)


def test_damage_that_comes_later_is_one_sentence(photos, tmp_path):
    copy = shutil.copytree(photos, tmp_path / "copy")
    data = ShardedImages(copy, "train")
    (copy / "index" / "train-000000.npy").write_bytes(b"other")
    os.truncate(copy / "shards" / "train-000001.tar", 5000)
    tar = copy / "shards" / "train-000002.tar"
    tar.write_bytes(b"x" + tar.read_bytes()[1:])
    with pytest.raises(DataError, match=r"index/train-000000.npy does not match the manifest; run `fm prepare` again"):
        data[0]
    with pytest.raises(DataError, match=r"shards/train-000001.tar is missing or does not match"):
        data[50]
    with pytest.raises(DataError, match=r"shards/train-000002.tar is missing or does not match"):
        data[100]
    assert data[150][0].shape == (16, 16, 3)
    write_shards(open_source("photos:?tiles=24"), tmp_path / "png", Preparation(size=16, encoding="png"))
    data = ShardedImages(tmp_path / "png", "test")
    assert data[0][0].shape == (16, 16, 3)
    with open(tmp_path / "png" / "shards" / "test-000000.tar", "r+b") as file:
        file.write(bytes(10_000))
    with pytest.raises(DataError, match=r"shards/test-000000.tar holds a damaged PNG"):
        data[0]

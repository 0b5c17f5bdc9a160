import pickle

import pytest

from fm.data import Preparation, ShardedImages, load_manifest, open_source, write_shards
from fm.data.parts import write_shard
from fm.errors import DataError

SMALL = Preparation(size=8, shard_images=7)


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


def test_a_disk_that_fills_up_names_the_shard(folder, tmp_path, monkeypatch):
    def full(self, name, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fm.data.ustar.UstarWriter.add", full)
    with pytest.raises(DataError, match=r"shard test-000000 cannot be written \(No space left on device\)"):
        write_shards(open_source(folder), tmp_path / "out", SMALL)
    assert not list((tmp_path / "out" / "shards").iterdir())


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


def test_pairs_are_one_sample_for_plain_webdataset(folder, tmp_path):
    import webdataset

    for encoding in ("raw", "png"):
        root = tmp_path / encoding
        settings = Preparation(size=8, low_size=4, shard_images=7, encoding=encoding)
        manifest = write_shards(open_source(folder), root, settings)
        urls = [str(root / "shards" / f"{s.name}.tar") for s in manifest.splits["train"].shards]
        dataset = webdataset.WebDataset(urls, shardshuffle=False)
        samples = list(dataset.decode("rgb8") if encoding == "png" else dataset.decode())
        data, ending = ShardedImages(root, "train"), "npy" if encoding == "raw" else "png"
        lows = data.low(range(len(data)))
        for (image, label), low, sample in zip(data, lows, samples, strict=True):
            assert (sample[ending] == image).all() and (sample[f"low.{ending}"] == low).all() and sample["cls"] == label
            assert low.shape == (4, 4, 3)

import json
import shutil

import pytest

from fm.data import Preparation, load_manifest, open_source, verify, write_shards
from fm.data.manifest import content_digest
from fm.errors import DataError


@pytest.fixture
def copy(photos, tmp_path):
    return shutil.copytree(photos, tmp_path / "copy")


def test_it_counts_and_names(photos):
    manifest = load_manifest(photos)
    assert manifest.images == 8 * 24 + 8 * 4 and manifest.shape == (3, 16, 16) and len(manifest.classes) == 8
    assert {name: split.images for name, split in manifest.splits.items()} == {"train": 192, "test": 32}
    assert [shard.name for shard in manifest.splits["train"].shards] == [f"train-{i:06d}" for i in range(4)]
    assert manifest.digest == content_digest(manifest.splits, manifest.classes, manifest.settings)


def test_verify_accepts_what_was_written(photos):
    assert verify(photos) == load_manifest(photos)


@pytest.mark.parametrize("name", ["shards/train-000002.tar", "index/test-000000.npy"])
def test_verify_names_what_was_changed(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[700 % len(data)] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(DataError, match=f"{name} is not what was written"):
        verify(copy)
    (copy / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        verify(copy)


def test_a_manifest_that_is_none(copy):
    path = copy / "manifest.json"
    good = json.loads(path.read_text())
    for change, words in (
        ({"classes": ["other"]}, "changed by hand"),
        ({"format": "parquet"}, "not a manifest of this program .format"),
        ({"extra": 1}, "not a manifest of this program .extra"),
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(DataError, match=words):
            load_manifest(copy)
    path.write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        load_manifest(copy)
    path.unlink()
    assert write_shards(open_source("photos:?tiles=24"), copy, Preparation(size=16, shard_images=50)).images == 224
    path.unlink()
    with pytest.raises(DataError, match="no prepared data set here"):
        load_manifest(copy)

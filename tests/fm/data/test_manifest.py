import json
import shutil

import pytest

from fm.data import Preparation, load_manifest, open_source, write_shards
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
    assert manifest.summary() == {"train": 192, "test": 32, "digest": manifest.digest}
    assert manifest.digest == content_digest(manifest.splits, manifest.classes, manifest.settings)


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


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it["splits"]["train"].update(images=30),
        lambda it: it["splits"]["test"]["class_images"].append(0),
        lambda it: it["splits"]["train"]["mean"].reverse(),
        lambda it: it["rejected"].update(empty=1),
        lambda it: it["origins"][0].update(source="/elsewhere"),
        lambda it: it["origins"][0]["missing"].update(train=9),
        lambda it: it.update(shape=[3, 8, 8]),
    ],
)
def test_a_change_by_hand_is_refused(copy, change):
    values = json.loads((copy / "manifest.json").read_text())
    before = json.dumps(values)
    change(values)
    assert json.dumps(values) != before
    (copy / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="was changed by hand"):
        load_manifest(copy)

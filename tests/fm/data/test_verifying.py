import json
import shutil

import pytest

from fm.data import Preparation, load_manifest, open_source, verify, write_shards
from fm.errors import DataError


@pytest.fixture
def copy(photos, tmp_path):
    return shutil.copytree(photos, tmp_path / "copy")


def test_what_was_written_passes(photos, folder, tmp_path):
    assert verify(photos) == load_manifest(photos)
    for path in sorted(folder.rglob("*.png"))[1:]:
        path.write_bytes(b"")
    out = tmp_path / "out"  # shards of rejects alone
    assert write_shards(open_source(folder), out, Preparation(size=8, shard_images=7)) == verify(out)


@pytest.mark.parametrize("name", ["shards/train-000002.tar", "shards/train-000001.idx", "index/test-000000.npy"])
def test_a_file_that_was_changed_is_named(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[700 % len(data)] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(DataError, match=f"{name} is not what was written"):
        verify(copy)
    (copy / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        verify(copy)


@pytest.mark.parametrize("name", ["index/train-000001.json", "rejected.jsonl"])
def test_records_and_rejects_belong_to_it(copy, name):
    (copy / name).write_text("{}")
    with pytest.raises(DataError, match=f"{name} is missing or is not what was written; run `fm prepare` again"):
        verify(copy)
    (copy / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        verify(copy)
    write_shards(open_source("photos:?tiles=24"), copy, Preparation(size=16, shard_images=50))
    verify(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it["splits"]["train"].update(mean=[1.0, 2.0, 3.0]),
        lambda it: it["splits"]["train"].update(class_images=[23, 25, *[24] * 6]),
        lambda it: it.update(traits={"grey": 9}),
        lambda it: it["origins"][0].update(digest="0123456789abcdef"),
        lambda it: it["origins"][0].update(inputs="0123456789abcdef"),
        lambda it: it["splits"]["train"]["shards"][0].update(bytes=1),
    ],
)
def test_a_manifest_that_is_not_that_of_its_shards(copy, change):
    values = json.loads((copy / "manifest.json").read_text())
    change(values)
    (copy / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="changed by hand"):
        verify(copy)


def test_an_address_is_refused_in_one_line(photos):
    with pytest.raises(DataError, match="is an address, and only a folder is verified; copy it into a folder first"):
        verify(f"file://{photos}")

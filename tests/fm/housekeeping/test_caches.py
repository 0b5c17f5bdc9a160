"""What goes from a real cache comes again when asked for; what is used, brought or not elsewhere does not go."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from fm.data import Preparation, ShardedImages, addresses, open_source, write_shards
from fm.data.unpacked import unpacked
from fm.files import write_json
from fm.housekeeping.plan import Plan, Removal
from fm.housekeeping.tidying import tidied
from fm.leases import leased
from fm.metrics import load_features
from fm.mirror import ADDRESS, DRIVER, Mirror
from fm.reference import described_by, kept_in
from fm.runs import held, here, pulled

Later = Callable[[float], float]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(addresses, "PAUSES_S", (0.1,))
    return tmp_path / "cache"


@pytest.fixture(scope="module", params=["png", "raw"])
def prepared(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose samples the cache keeps decoded, and one that it keeps as it is."""
    root = tmp_path_factory.mktemp(request.param)
    write_shards(open_source("photos:?tiles=24"), root, Preparation(size=16, shard_images=50, encoding=request.param))
    return root


@pytest.fixture
def data(prepared: Path, tmp_path: Path) -> Iterator[str]:
    """Its address."""
    address = f"memory://{tmp_path.name}"
    fsspec.filesystem("memory").put(str(prepared), address, recursive=True)
    yield address
    fsspec.filesystem("memory").rm(address, recursive=True)


def said(plan: Plan, root: Path) -> dict[str, tuple[bool, str]]:
    every = [*plan.kept, *plan.removals]
    return {one.path.relative_to(root).as_posix(): (isinstance(one, Removal), one.why) for one in every}


def why(cache: Path, **asked: Any) -> dict[str, tuple[bool, str]]:
    return said(tidied("cache", **asked).plan, cache)


def staged(cache: Path) -> list[str]:
    found = (file for file in cache.rglob("*") if file.is_file() and file.name != ".lock")
    return sorted(file.relative_to(cache).as_posix() for file in found)


def test_shards_that_somebody_reads_stay_and_all_others_are_staged_anew(data: str, cache: Path, later: Later) -> None:
    images = ShardedImages(data, "train", cache=cache)
    due = images.gather(range(len(images)))
    folder, end = images.digest, "raw" if (cache / images.digest / "pixels").exists() else "tar"
    places = [f"{folder}/{'pixels' if end == 'raw' else 'shards'}/train-{number:06d}.{end}" for number in range(4)]
    assert {why(cache, now=later(2))[place] for place in places} == {(False, "a process of this machine reads it")}
    del images
    gc.collect()
    assert {why(cache)[place] for place in places} == {(False, "used within the last hour")}
    images = ShardedImages(data, "train", cache=cache)
    images.keep({1})
    found = why(cache, now=later(2))
    assert found[places[1]] == (False, "a process of this machine holds it")
    assert {found[place] for place in (places[0], *places[2:])} == {(True, "staged again when its data set is read")}
    assert why(cache, older_than_days=1, now=later(12))[places[0]] == (False, "used 0.5 days ago")
    done = tidied("cache", delete=True, now=later(2))
    assert len(done.plan.removals) == 3 and not done.plan.failed
    names = {file.rpartition("/")[2].partition(".")[0] for file in staged(cache)}
    assert names == {"train-000001"} and f"{folder}/index/train-000001.npy" in staged(cache)
    assert (images.gather(range(len(images))) == due).all()


def test_what_staging_left_torn_and_what_it_never_wrote(data: str, cache: Path, later: Later, tmp_path: Path) -> None:
    images = ShardedImages(data, "test", cache=cache)
    images.gather([0])
    folder = cache / images.digest
    (folder / "index" / ".train-000009.npy.7.part").write_bytes(bytes(9))
    (folder / "index" / "mine.txt").touch()
    (folder / "index" / "train-000008.npy").symlink_to(tmp_path)
    (cache / "0123456789abcdef").symlink_to(tmp_path)
    part = f"{images.digest}/index/.train-000009.npy.7.part"
    assert not why(cache)[part][0]
    found = why(cache, now=later(2))
    assert found[part] == (True, "left by a writer that was killed")
    assert found[f"{images.digest}/index/mine.txt"] == (False, "unknown, kept")
    links = found[f"{images.digest}/index/train-000008.npy"], found["0123456789abcdef"]
    assert [*links] == [(False, "a link, not followed")] * 2


def test_features_and_unpacked_files_come_again_and_weights_do_not_go(
    prepared: Path, cache: Path, later: Later, tmp_path: Path
) -> None:
    network, images = load_features("random_conv"), ShardedImages(prepared, "train")
    first = described_by(network, images, "train", 20)
    (tmp_path / "packed").write_bytes(b"packed")
    file = unpacked(str(tmp_path / "packed"), lambda out: out.write(b"whole") and None)
    mine, others = cache / f"features-{os.getuid()}", cache / f"features-{os.getuid() + 1}"
    for folder in (mine, others):
        folder.mkdir()
        (folder / "inception.pt").write_bytes(b"weights")
    assert not any(goes for goes, _ in why(cache).values())
    (features,) = kept_in().iterdir()
    found = why(cache, now=later(2))
    gone = {path.relative_to(cache).as_posix() for path in (features, file)}
    assert {name for name, (goes, _) in found.items() if goes} == gone
    assert found[f"{mine.name}/inception.pt"][1] == "weights that were brought: nobody can fetch them again"
    assert found[others.name] == (False, "another user's")
    tidied("cache", delete=True, now=later(2))
    assert not features.exists() and not file.exists() and (mine / "inception.pt").exists()
    assert torch.equal(described_by(network, images, "train", 20), first)
    assert unpacked(str(tmp_path / "packed"), lambda out: out.write(b"whole") and None).read_bytes() == b"whole"


@pytest.fixture
def address(tmp_path: Path) -> str:
    """Of a RUN on which this machine has worked."""
    address = f"file://{tmp_path}/far/run"
    with held(address) as folder:
        write_json(folder / "recipe.json", {"a": 1})
        write_json(folder / "evaluations" / "k.json", {"key": "k"})
    return address


def test_a_copy_goes_when_its_address_has_all_and_is_fetched_again(address: str, cache: Path, later: Later) -> None:
    folder = here(address)
    name = folder.relative_to(cache).as_posix()
    assert why(cache)[name] == (False, "used within the last hour")
    assert why(cache, now=later(2))[name] == (True, f"a copy of {address}, which has all of it")
    assert why(cache, older_than_days=1, now=later(2))[name][0] is False
    before = sorted(Path(address.removeprefix("file://")).rglob("*"))
    tidied("cache", delete=True, now=later(2))
    assert not folder.exists() and sorted(Path(address.removeprefix("file://")).rglob("*")) == before
    assert pulled(address) == folder and (folder / "evaluations" / "k.json").exists()


def test_a_copy_that_somebody_uses_or_that_is_all_there_is_stays(
    address: str, cache: Path, later: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = here(address)
    name = folder.relative_to(cache).as_posix()
    with held(address):
        assert "a process of this machine works with it" in why(cache, now=later(2))[name][1]
    monkeypatch.setenv("FM_CACHE", str(cache.parent / "elsewhere"))
    with leased(Mirror(address, DRIVER)):  # a driver on another machine
        monkeypatch.setenv("FM_CACHE", str(cache))
        assert why(cache, now=later(2))[name] == (False, f"somebody is at work at {address}, or was a minute ago")
    monkeypatch.setenv("FM_CACHE", str(cache))
    write_json(folder / ".parts" / "x.json", {})
    write_json(folder / "evaluations" / "k.json", {"key": "k", "changed": True})
    lacks = f"holds 2 files that {address} has not, or not so: .parts/x.json, evaluations/k.json"
    assert why(cache, now=later(2))[name] == (False, lacks)
    assert tidied("cache", delete=True, now=later(2)).plan.removals == ()
    os.rename(cache.parent / "far", cache.parent / "away")
    assert not why(cache, now=later(2))[name][0]
    (folder.parent / ADDRESS).unlink()
    assert why(cache, now=later(2))[name] == (False, "what it is a copy of is not noted; whoever uses it next notes it")
    (folder.parent / ADDRESS).write_text("file:///other/run")
    assert why(cache, now=later(2))[name] == (False, "not where a copy of file:///other/run lies")
    (folder / "link").symlink_to(cache)
    assert why(cache, now=later(2))[name] == (False, "holds a link, not followed")


def test_an_address_that_is_away_keeps_its_copy(address: str, cache: Path, later: Later) -> None:
    folder = here(address)
    (folder.parent / ADDRESS).write_text("http://127.0.0.1:9/runs/run")
    other = Mirror("http://127.0.0.1:9/runs/run", DRIVER).place
    other.parent.mkdir()
    os.rename(folder.parent, other)
    told = why(cache, now=later(2))[f"{other.relative_to(cache).as_posix()}/run"]
    assert not told[0] and told[1].startswith("its address cannot be looked at (http://127.0.0.1:9/runs/run: ")

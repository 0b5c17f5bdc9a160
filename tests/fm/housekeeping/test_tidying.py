"""Which folders are looked after, under which locks; a comparison's members each by the rule of a RUN."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from fm.checkpoints import kept
from fm.errors import SettingsError, UserError
from fm.files import alone
from fm.housekeeping.tidying import tidied
from fm.results import write_row


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def comparison(trained: Path, tmp_path: Path) -> Path:
    for name in ("fm-ot-seed0", "fm-vp-seed1"):
        shutil.copytree(trained, tmp_path / "out" / name)
    (tmp_path / "out" / "data" / "photos").mkdir(parents=True)
    (tmp_path / "out" / "other-seed0").mkdir()
    return tmp_path / "out"


def left(run: Path) -> list[int]:
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir())


def test_nothing_is_looked_at_where_somebody_is_at_work(run: Path) -> None:
    for delete in (False, True):
        with alone(run), pytest.raises(UserError, match="run: another run is at work here; wait for its end or"):
            tidied(str(run), 1, delete=delete)
    assert len(left(run)) == 10


def test_a_comparison_is_its_members(comparison: Path) -> None:
    one, other = (comparison / name for name in ("fm-ot-seed0", "fm-vp-seed1"))
    write_row(one, {"key": "k", "weights": kept(one)[0].weights})
    told = tidied(str(comparison), 1)
    assert told.kind == "comparison" and len(left(one)) == 10
    why = {path.path.name: path.why for path in told.plan.kept if path.path.parent == comparison}
    assert why["data"] == "of the comparison" and why["other-seed0"] == "unknown, kept"
    tidied(str(comparison), 1, delete=True)
    assert left(one) == [64, 640] and 640 in left(other) and len(left(other)) <= 2
    assert (comparison / "data" / "photos").is_dir()


@pytest.mark.parametrize("member", ["sr3-seed0", "mean-flow-seed0", "reflow-seed3"])
def test_members_of_every_kind_of_comparison_are_known(member: str, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "out" / member)
    assert tidied(str(tmp_path / "out"), 1).kind == "comparison"


def test_no_member_is_touched_while_one_is_at_work(comparison: Path) -> None:
    for folder in (comparison, comparison / "fm-vp-seed1"):
        with alone(folder), pytest.raises(UserError, match=f"{folder.name}: another run is at work here"):
            tidied(str(comparison), 1, delete=True)
    assert [len(left(comparison / name)) for name in ("fm-ot-seed0", "fm-vp-seed1")] == [10, 10]


def test_other_folders_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").touch()
    for name in ("data", ""):
        with pytest.raises(
            UserError, match="is neither a RUN, nor a comparison of `fm paper` or `fm superres`, nor the cache; name a"
        ):
            tidied(str(tmp_path / name), delete=True)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        tidied(str(tmp_path / "nowhere"), delete=True)
    with pytest.raises(UserError, match="s3://bucket/run: is an address, and housekeeping is of folders; the training"):
        tidied("s3://bucket/run", delete=True)
    (run / ".index.json").touch()
    with pytest.raises(UserError, match="is this machine's copy of a RUN at an address; `fm gc cache`"):
        tidied(str(run), delete=True)
    assert len(left(run)) == 10


def test_the_cache_by_its_word_and_by_its_path(cache: Path) -> None:
    assert tidied("cache").plan.kept == ()  # a machine that has none yet
    (cache / "mine").mkdir(parents=True)
    for place in ("cache", str(cache), str(cache.parent / "x" / ".." / "cache")):
        told: Any = tidied(place, delete=True)
        assert told.kind == "cache" and [one.why for one in told.plan.kept] == ["a lock", "unknown, kept"]
    with pytest.raises(SettingsError, match="--keep: is of checkpoints"):
        tidied("cache", keep=1)

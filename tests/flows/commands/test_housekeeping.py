"""`fm gc` as users call it: a listing, deletion with --yes, one sentence and exit code 2 where it may not."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fm.checkpoints import kept
from fm.demo2d.plan import Plan, recipe
from fm.demo2d.training import train_run
from fm.files import alone
from fm.models import MLPSettings
from fm.paths import OTPath
from fm.recipe import load, opened
from fm.results import write_row

Fm = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUN with five checkpoints, of which its recipe keeps all."""
    changes = {"batch_images": 64, "total_images": 320, "report_images": 320, "save_images": 64, "keep": 9}
    training = Plan().training.model_copy(update=changes)
    made = recipe("two_moons", OTPath(), Plan(model=MLPSettings(width=16, depth=2), training=training))
    with opened(tmp_path_factory.mktemp("trained") / "run", made) as run:
        train_run(run, made)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def fm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fm:
    """The command line in this process -> exit code, what it printed, what it said."""
    from flows.cli import main

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fm", *words])
        with pytest.raises(SystemExit) as ended:
            main()
            sys.exit(0)
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


def left(run: Path) -> list[int]:
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir())


def test_it_lists_and_deletes_when_told_to(run: Path, fm: Fm) -> None:
    code, out, _ = fm("gc", "run")
    assert (code, out.splitlines()[-1]) == (0, "nothing to delete")
    cited = kept(run)[1]
    write_row(run, {"key": "k", "weights": cited.weights})
    code, out, _ = fm("gc", "run", "--keep", "1")
    assert code == 0 and len(left(run)) == 5
    assert out.startswith(f"RUN {run}\n\nkept:\n") and "checkpoints/000000000320  the newest whole one" in out
    assert "checkpoints/000000000128  a reported number cites its weights" in out
    assert "would be deleted:" in out and "checkpoints/000000000064  older than the newest 1 whole one;" in out
    assert out.splitlines()[-1].endswith("in 3 things; nothing is deleted yet: the same command with --yes does it")
    code, out, _ = fm("gc", "run", "--keep", "1", "--yes")
    assert code == 0 and left(run) == [128, 320]
    assert "\ndeleted:\n" in out and out.splitlines()[-1].startswith("freed ")
    assert load(run, weights=cited.weights).lineage["images_seen"] == 128


def test_scripts_get_all_of_it(run: Path, fm: Fm) -> None:
    code, out, _ = fm("gc", str(run), "--keep", "2", "--json")
    told: dict[str, Any] = json.loads(out)
    assert code == 0 and (told["kind"], told["folder"], told["deleted"]) == ("RUN", str(run), False)
    assert [Path(one["path"]).name for one in told["removals"]] == [f"{n:012d}" for n in (64, 128, 192)]
    assert told["bytes"] == sum(one["bytes"] for one in told["removals"]) > 1000
    assert {"path", "bytes", "why"} == told["kept"][0].keys() and told["failed"] == []
    assert json.loads(fm("gc", str(run), "--keep", "2", "--json", "--yes")[1]) == told | {"deleted": True}
    assert left(run) == [256, 320]


def test_a_cache_is_named_by_a_word(run: Path, fm: Fm, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    for number in range(20):
        (tmp_path / "cache" / f"mine-{number}").touch()
    code, out, _ = fm("gc", "cache", "--older-than", "7")
    assert code == 0 and f"cache {tmp_path / 'cache'}\n" in out and "./ (20 in it)  unknown, kept" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "error: nowhere: no such folder; name a RUN, or `cache`\n"),
        (
            ["."],
            "error: .: is neither a RUN, nor a comparison of `fm paper` or `fm superres`, nor the cache; name a RUN",
        ),
        (["s3://bucket/runs/x"], "error: s3://bucket/runs/x: is an address, and housekeeping is of folders; "),
        (["cache", "--keep", "1"], "error: --keep: is of checkpoints, and a cache has none of its own; leave it out\n"),
        (["run", "--keep", "0"], "Invalid value for '--keep'"),
        (["run", "--older-than", "-1"], "Invalid value for '--older-than'"),
    ],
)
def test_what_it_refuses(run: Path, fm: Fm, words: list[str], says: str) -> None:
    code, out, err = fm("gc", *words, "--yes")
    assert code == 2 and says in err and out == "" and len(left(run)) == 5


def test_where_somebody_is_at_work_it_says_so(run: Path, fm: Fm) -> None:
    with alone(run):
        for words in ((), ("--yes",)):
            code, _, err = fm("gc", "run", "--keep", "1", *words)
            assert (code, err.count("\n")) == (2, 1)
            assert err == f"error: {run}: another run is at work here; wait for its end or choose another\n"
    assert len(left(run)) == 5


def test_what_could_not_be_deleted_ends_with_1(run: Path, fm: Fm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that nobody may rename, the superuser included: a file system is mounted on it, or it is immutable."""
    from fm.housekeeping import plan

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(plan.os, "rename", refused)
    code, out, err = fm("gc", "run", "--keep", "1", "--yes")
    assert code == 1 and "NOT deleted:" in out and "freed 0 B in 0 things" in out and len(left(run)) == 5
    assert "000000000064: cannot be deleted (Operation not permitted), as 4 things in all; give yourself" in err

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fm.results import write_row


@pytest.mark.timeout(240)
def test_new_cells_are_measured_and_old_ones_kept(finished: Path, command: Any, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "tracking.json").unlink()
    before = {f.name: f.read_bytes() for f in (run / "evaluations").glob("*.json")}
    options = ["--solvers", "heun", "--nfe", "2,4", "--samples", "20", "--set", "evaluation.nll_images=0"]
    done = command("evaluate", str(run), *options, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert {(r["solver"], r["nfe"]) for r in rows if r["samples"] == 20} >= {("heun", 2), ("heun", 4)}
    after = {f.name: f.read_bytes() for f in (run / "evaluations").glob("*.json")}
    assert before.items() < after.items()


def test_options_that_need_each_other_are_said(finished: Path, command: Any) -> None:
    done = command("evaluate", str(finished), "--solvers", "heun", cwd=finished.parent)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        "error: --solvers: heun needs a budget; add --nfe 4,8,16, for example",
    )


def test_a_budget_that_a_solver_cannot_meet_names_the_nearest(finished: Path, command: Any) -> None:
    done = command("evaluate", str(finished), "--solvers", "midpoint", "--nfe", "3", cwd=finished.parent)
    assert done.returncode == 2
    assert "2" in done.stderr and "4" in done.stderr and done.stderr.count("\n") == 1


FRAIL = """
from fractions import Fraction
from pathlib import Path

from fm.tableaux import Tableau

class Frail(Fraction):
    def __float__(self):
        if Path({marker!r}).exists():
            raise RuntimeError("the marker is there")
        return 1.0

SOLVER = Tableau(1, (0,), ((),), (Frail(1),))
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_failed_cell_is_said_and_is_all_that_the_next_start_measures(
    finished: Path, command: Any, tmp_path: Path
) -> None:
    """And a row that is measured again is the same to the last bit; one that was changed is not."""
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "tracking.json").unlink()
    marker = tmp_path / "marker"
    marker.touch()
    (tmp_path / "frail.py").write_text(FRAIL.format(marker=str(marker)))
    options = ["--solvers", "euler,frail:SOLVER", "--nfe", "2", "--samples", "24", "--seeds", "2", "--json"]
    sweep = [*options, "--set", "evaluation.nll_images=0"]
    failed = command("evaluate", str(run), *sweep, cwd=tmp_path)
    assert failed.returncode == 1, failed.stderr
    assert "2 cells of 5 failed" in failed.stderr and "the marker is there" in failed.stderr.splitlines()[-1]
    rows = json.loads(failed.stdout.splitlines()[-1])["rows"]
    assert [row["solver"] for row in rows if "failed" in row] == ["frail:SOLVER"] * 2
    before = {f.name: f.stat().st_mtime_ns for f in (run / "evaluations").glob("*.json")}
    marker.unlink()
    done = command("evaluate", str(run), *sweep, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    after = {f.name: f.stat().st_mtime_ns for f in (run / "evaluations").glob("*.json")}
    changed = {name.removesuffix(".json") for name in after if after[name] != before.get(name)}
    frail = [row for row in rows if row["solver"] == "frail:SOLVER"]
    assert changed == {row["key"] for row in frail} and len(frail) == 2
    euler = [row for row in rows if row["solver"] == "euler" and row["weights"] == frail[0]["weights"]]
    name = "fd_efficientnet_lite0_b7"
    assert [row[name] for row in frail] == [row[name] for row in euler]  # the same method, from the same noise
    assert euler[0][name] != euler[1][name] and euler[0]["noise_digest"] != euler[1]["noise_digest"]

    options = ["--solvers", "heun", "--nfe", "2", "--samples", "20", "--set", "evaluation.nll_images=0"]
    assert command("evaluate", str(run), *options, cwd=tmp_path).returncode == 0  # whose settings are its own
    file = run / "evaluations" / f"{euler[1]['key']}.json"
    again = command("evaluate", "--rerun", str(file.parent), "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    told = json.loads(again.stdout.splitlines()[-1])
    assert told["rows"] == len(list(file.parent.glob("*.json"))) and "to the last bit" in told["same"]
    assert not (run / ".parts" / "again").exists()
    write_row(run, euler[1] | {name: euler[1][name] * (1 + 1e-15)})
    other = command("evaluate", "--rerun", str(file), cwd=tmp_path)
    assert other.returncode == 1 and f"values differ ({name} " in other.stderr.splitlines()[-1]

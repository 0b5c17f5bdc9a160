import json
import shutil
from pathlib import Path
from typing import Any

import pytest


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
        "error: --solvers and --nfe: go together; for example --solvers euler,midpoint --nfe 4,8,16",
    )


def test_a_budget_that_a_solver_cannot_meet_names_the_nearest(finished: Path, command: Any) -> None:
    done = command("evaluate", str(finished), "--solvers", "midpoint", "--nfe", "3", cwd=finished.parent)
    assert done.returncode == 2
    assert "2" in done.stderr and "4" in done.stderr and done.stderr.count("\n") == 1

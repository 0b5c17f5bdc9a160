import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fm.files import write_json
from fm.results import write_row

LEVELS = [float(g) for g in range(10)]


def a_run(folder: Path, value: float, **changes: Any) -> Path:
    """RUN with a row, but without a network."""
    write_json(folder / "recipe.json", {})
    row = {"key": "k", "method": "FM w/ OT", "path": "ot", "solver": "euler", "nfe": 8, "tolerance": None, "seed": 0}
    row |= {"samples": 300, "seconds": 1.0, "data": "d", "features": "x", "features_weights": "w", "weights": "abc"}
    row |= {"fd_x": value, "fd_x_low": value - 9, "fd_x_high": value + 9, "fd_x_without": LEVELS}
    write_row(folder, row | {"images_seen": 10, "fd_x_floor": None} | changes)
    return folder


def test_compare_prints_a_verdict_for_people_and_all_for_scripts(tmp_path: Path, command: Any) -> None:
    for name, value in (("ot", 380.0), ("vp", 400.0)):
        a_run(tmp_path / name, value)
    done = command("compare", "ot", "vp", "--out", "out", "--samples", "0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ot is better by 20" in done.stdout and (tmp_path / "out" / "report.html").exists()
    told = json.loads(command("compare", "vp", "ot", "--out", "out", "--samples", "0", "--json", cwd=tmp_path).stdout)
    (pair,) = told["paired"]
    assert (pair["baseline"], pair["difference"], pair["better"]) == ("vp", -20.0, "ot")
    assert [row["fd_x"] for rows in told["rows"].values() for row in rows] == [400.0, 380.0]


def test_runs_without_networks_are_compared_in_numbers_and_a_note_says_so(tmp_path: Path, command: Any) -> None:
    for name in ("ot", "vp"):
        a_run(tmp_path / name, 400.0, fd_x_without=[])
    done = command("compare", "ot", "vp", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "too few images for 10 groups" in done.stdout
    assert "note: ot: no pictures of it" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        (["ot"], "error: ot: is one RUN alone; name another to compare it with"),
        (["ot", "ot"], "error: ot: is named twice"),
        (["ot", "nowhere"], "error: nowhere: no training here"),
        (["ot", "unmeasured"], "error: unmeasured: holds no rows to compare; evaluate it first"),
        (["ot", "other"], "error: other: was measured with features y, ot with x; evaluate both with the same"),
        (["ot", "vp", "--out", "ot"], "error: ot: is a RUN, whose report would be lost"),
    ],
)
def test_what_compare_refuses_in_one_line(tmp_path: Path, command: Any, runs: list[str], says: str) -> None:
    for name in ("ot", "vp", "unmeasured"):
        a_run(tmp_path / name, 400.0)
    a_run(tmp_path / "other", 400.0, features="y")
    shutil.rmtree(tmp_path / "unmeasured" / "evaluations")
    done = command("compare", *runs, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(says) and done.stderr.count("\n") == 1

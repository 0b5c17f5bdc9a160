"""A whole comparison, undisturbed and killed in its middle."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import pytest

from flows.paper import paper
from fm.files import read_json
from fm.paper.methods import DATASETS, SCALES

METHODS = "fm-ot,ddpm,score-matching-scaled"
CHANGES = [
    "training.total_images=128",
    "training.save_images=64",
    "training.keep_every_images=64",
    "evaluation.grid=[{solver = 'midpoint', nfe = 4}, {solver = 'dopri5', tolerance = 1e-3, nll_images = 12}]",
    "evaluation.along={solver = 'midpoint', nfe = 4}",
    "evaluation.samples=40",
    "evaluation.nll_training_images=12",
    "evaluation.error_images=12",
    "evaluation.features=random_conv",
]
TIMED = ("seconds", "nll_seconds")


def test_the_form_offers_what_the_library_knows() -> None:
    annotations = paper.fn.__annotations__
    assert set(get_args(annotations["dataset"])) == set(DATASETS)
    assert get_args(annotations["scale"]) == SCALES


def arguments(out: str) -> list[str]:
    changes = [word for change in CHANGES for word in ("--set", change)]
    chosen = ["--dataset", "photos", "--source", "photos:?tiles=30", "--seeds", "1", "--methods", METHODS]
    return [sys.executable, "-m", "flows.cli", "paper", out, *chosen, *changes, "--workers", "1"]


def rows_of(out: Path) -> list[dict[str, str]]:
    with open(out / "report" / "table.csv", newline="") as file:
        return [{name: value for name, value in row.items() if name not in TIMED} for row in csv.DictReader(file)]


def killed_when(command: list[str], seen: Any, cwd: Path) -> None:
    """Starts the command and kills it with all that it started as soon as `seen()`."""
    process = subprocess.Popen(command, cwd=cwd, start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not seen():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_comparison_that_is_killed_twice_ends_with_the_same_table(tmp_path: Path, services: Any) -> None:
    done = subprocess.run(arguments("whole"), cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Score Matching (scaled)" in done.stdout and "not shown" in done.stdout
    out = tmp_path / "killed"
    killed_when(arguments("killed"), lambda: any(out.glob("ddpm-seed0/checkpoints/*64")), tmp_path)
    killed_when(arguments("killed"), lambda: any(out.glob("ddpm-seed0/evaluations/*.json")), tmp_path)
    done = subprocess.run(arguments("killed"), cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "train: unchanged" in done.stderr + done.stdout
    assert rows_of(out) == rows_of(tmp_path / "whole") and len(rows_of(out)) > 6
    verdicts = [read_json(folder / "report" / "claims.json") for folder in (out, tmp_path / "whole")]
    assert verdicts[0]["claims"] == verdicts[1]["claims"]
    assert (out / "report.html").exists()

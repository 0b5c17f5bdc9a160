"""Parts and solutions of a real evaluation: kept while something goes on from them, not for longer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fm.files import write_json
from fm.housekeeping.plan import Removal
from fm.housekeeping.tidying import tidied
from fm.results import read_rows, write_row
from tasks import measuring, on_workers
from tasks.measuring import Job, Share
from tests.tasks.test_measuring import CHANGES, job_of, measured
from tests.tasks.test_on_workers import prepared


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    few = [f"evaluation.{name}" for name in ("nll_images=0", "nll_training_images=0", "error_images=2")]
    changes = ["training.total_images=64", *CHANGES[:-1], *few]
    config = prepared(tmp_path_factory.mktemp("scratch"), *changes, holdout=0.6)
    on_workers.training(config)
    return Path(config["run"])


def parts(run: Path, **asked: Any) -> dict[str, tuple[bool, str]]:
    """Of each thing in RUN/.parts whether it goes, and why."""
    plan = tidied(str(run), **asked).plan
    every = [one for one in (*plan.kept, *plan.removals) if one.path.parent == run / ".parts"]
    return {one.path.name: (isinstance(one, Removal), one.why) for one in every}


def solutions(job: Job, count: int) -> Path:
    """Those of so many images, which the recipe does not ask for unless they are two."""
    other = replace(job, cell=job.cell.model_copy(update={"error_images": count}))
    measuring.write(measuring.solutions_file(other), {"x": torch.zeros(count, 2)})
    return measuring.solutions_file(other)


def test_parts_stay_until_their_row_is_there_and_solutions_while_they_fit(run: Path, later: Any) -> None:
    job = job_of(run)
    measured(job)
    exact, other = measuring.solutions_file(job).name, solutions(job, 4).name
    going_on = (False, "an unfinished evaluation goes on from it (--older-than DAYS lets it go)")
    fits = (False, "cells of these weights are measured against it")
    assert parts(run) == {job.key: going_on, exact: fits, other: (False, "an unfinished evaluation may go on from it")}
    write_row(run, measuring.failed(job, "no memory"))
    assert parts(run)[job.key] == going_on == parts(run, older_than_days=1)[job.key]
    old = parts(run, older_than_days=2, now=later(72))
    assert old[job.key] == (True, "of an evaluation left unfinished 3 days ago")
    assert old[other][0] and old[exact] == fits
    tidied(str(run), delete=True)
    assert job.missing() == []

    row = measuring.row(job)
    Share(job, job.parts()[0]).keep(measuring.found(Share(job, job.parts()[0])))
    again = replace(job, keep=False)
    solutions(again, 2)
    Share(again, again.parts()[0]).keep({"x": torch.zeros(2)})
    (run / ".parts" / "mine").mkdir()
    found = parts(run)
    assert found.pop("mine") == (False, "unknown, kept")
    assert found == {
        job.key: (True, "its row is there"),
        "again": (True, "of rows that were measured once more"),
        exact: fits,
        other: (True, "of weights, settings or code that are not here any more"),
    }
    tidied(str(run), keep=1, delete=True)
    assert sorted(path.name for path in (run / ".parts").iterdir()) == [exact, "mine"]
    assert read_rows(run) == [row] and measuring.load(run, weights=row["weights"]).lineage["weights"] == row["weights"]


def test_links_and_strangers_in_it_stay(run: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "far.json", {})
    key = "0123456789abcdef"
    folder = run / ".parts" / key
    folder.mkdir(parents=True)
    (folder / "samples-0.safetensors").symlink_to(tmp_path / "far.json")
    (run / ".parts" / "converged-0123456789abcdef.safetensors").symlink_to(tmp_path / "far.json")
    found = parts(run, older_than_days=0)
    assert found[key] == (False, "unknown, kept")
    assert found["converged-0123456789abcdef.safetensors"] == (False, "a link, not followed")

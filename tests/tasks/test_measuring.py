import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fm.cells import cells
from fm.checkpoints import kept, newest
from fm.data import ShardedImages, load_manifest
from fm.errors import CheckpointError
from fm.evaluation import evaluate, row_key
from fm.facts import facts_of, on_data
from fm.metrics import load_features
from fm.recipe import Recipe, load, opened, untrained
from fm.reference import measure_reference
from fm.results import read_rows
from fm.runs import refresh
from tasks import measuring, on_workers
from tasks.measuring import Job, Real, Share, Solutions
from tests.tasks.test_on_workers import prepared

CHANGES = [
    "evaluation.features=random_conv",
    "evaluation.grid=[{solver = 'euler', nfe = 4}]",
    "evaluation.nll_images=4",
    "evaluation.nll_training_images=4",
    "evaluation.error_images=6",
    "evaluation.samples=20",
    "evaluation.batch=8",
    "evaluation.reference_images=20",
    "data.holdout=0.6",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUN after a training without Ray."""
    config = prepared(tmp_path_factory.mktemp("measured"), "training.total_images=64", *CHANGES[:-1], holdout=0.6)
    on_workers.training(config)
    return Path(config["run"])


def job_of(run: Path, weights: str = "") -> Job:
    recipe = Recipe.load(run)
    settings, saved = recipe.evaluation, newest(run)
    assert saved is not None
    cell, weights = cells(settings)[0], weights or saved.weights
    key = row_key(weights, cell, load_features("random_conv").identity, facts_of(run)["digest"])
    return Job(key, str(run), run, settings, cell, weights)


def measured(job: Job) -> None:
    exact = measuring.converged(Solutions(job, range(job.cell.error_images)))
    measuring.write(measuring.solutions_file(job), exact)
    for part in job.parts():
        Share(job, part).keep(measuring.found(Share(job, part)))


@pytest.mark.parametrize("trained", [True, False])
def test_parts_make_the_row_that_one_process_makes(run: Path, trained: bool) -> None:
    job = job_of(run, "" if trained else untrained(run).lineage["weights"])
    measured(job)
    assert all(Share(job, part).kept() for part in job.parts())
    made = measuring.row(job)
    assert not job.scratch.exists() and made in read_rows(run)
    flow = load(run) if trained else untrained(run)
    sets = ShardedImages(facts_of(run)["data"], "train"), ShardedImages(facts_of(run)["data"], "test")
    features = load_features("random_conv")
    exact = measuring.converged(Solutions(job, range(6)))
    whole = evaluate(flow, job.cell, features, measure_reference(*sets, features, job.settings), exact)
    timed = ("seconds", "nll_seconds")
    assert {k: v for k, v in whole.items() if k not in timed} == {k: v for k, v in made.items() if k not in timed}
    assert (made["solution_error"] > 0) is trained  # a network before its first step answers zero


def test_a_row_without_solutions_says_why_and_holds_no_error(run: Path) -> None:
    job = replace(job_of(run), unsolved="the step size vanished", keep=False)
    for part in job.parts():
        Share(job, part).keep(measuring.found(Share(job, part)))
    made = measuring.row(job)
    assert made["solution_failed"] == "the step size vanished" and made["samples"] == job.cell.samples
    assert not any(name.startswith(("solution_error", "way_")) for name in made)


def test_a_damaged_part_is_measured_again(run: Path) -> None:
    job = job_of(run)
    share = Share(job, job.parts()[0])
    share.keep(measuring.found(share))
    assert share.kept()
    file = job.file(share.part)
    file.write_bytes(file.read_bytes()[:-9])
    assert not share.kept()
    shutil.rmtree(job.scratch)


def test_an_older_checkpoint_of_a_run_at_an_address_is_measured(tmp_path: Path, s3: Any, monkeypatch: Any) -> None:
    """The driver's copy there holds no weights but the newest."""
    config = prepared(tmp_path, "training.total_images=128", *CHANGES[:-1], holdout=0.6)
    recipe, address = Recipe.load(Path(config["run"])), f"s3://bucket/{tmp_path.name}/far"
    monkeypatch.setenv("FM_CACHE", str(tmp_path / "driver"))
    with opened(address, recipe) as folder:
        on_data(folder, config["data"], load_manifest(config["data"]))
    monkeypatch.setenv("FM_CACHE", str(tmp_path / "worker"))
    on_workers.training(config | {"run": address})
    monkeypatch.setenv("FM_CACHE", str(tmp_path / "driver"))
    with opened(address, recipe, note=False) as folder:
        refresh(folder)
        older = kept(folder)[0]
        cell = cells(recipe.evaluation)[0].model_copy(update={"error_images": 0})
        job = Job("", address, folder, recipe.evaluation, cell, older.weights)
        for part in job.parts():
            Share(job, part).keep(measuring.found(Share(job, part)))
        (folder / "checkpoints" / older.path.name / "ema.safetensors").unlink()  # which another machine fetched
        measuring._flow.cache_clear()
        made = measuring.row(job)
    assert (made["images_seen"], made["weights"]) == (64, older.weights)


def test_a_row_is_of_the_weights_that_were_asked_for(run: Path) -> None:
    job = job_of(run, "0" * 64)
    with pytest.raises(CheckpointError, match="no whole checkpoint of weights 0000000000000000; evaluate again"):
        measuring.found(Share(job, job.parts()[0]))


def test_a_failed_cell_leaves_a_row_with_the_reason(run: Path) -> None:
    job = job_of(run)
    row = measuring.failed(job, "no memory")
    assert (row["key"], row["failed"], row["weights"]) == (job.key, "no memory", job.weights)


def test_real_pictures_are_described_by_their_places(run: Path) -> None:
    real = Real(str(run), "random_conv", "cuda", "test", range(3, 7))  # a GPU in name alone
    assert measuring.described(real).shape == (4, 64)
    with torch.inference_mode():
        whole = measuring.described(Real(str(run), "random_conv", "cpu", "test", range(8)))
    assert torch.allclose(measuring.described(real), whole[3:7], atol=1e-6)

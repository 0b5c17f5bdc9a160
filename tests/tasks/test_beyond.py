"""What the page beyond the paper is made from, on networks of a moment, all in this process."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fm.beyond.plan import METHODS, guided_points, planned
from fm.beyond.table import table
from fm.checkpoints import Saved, kept, newest
from fm.data import open_source, write_shards
from fm.facts import on_data
from fm.optimised import OPTIMISED
from fm.paper.trained import Trained
from fm.recipe import Recipe, load, opened
from fm.results import Row, read_rows
from tasks import beyond, cluster, evaluate, measuring, on_workers, paper, standing
from tasks.paper import Pictures, options
from tasks.tracking import Tracking

CHANGES = (
    "training.total_images=64",
    "training.warmup_images=0",
    "evaluation.samples=20",
    "evaluation.reference_images=30",
    "evaluation.nll_images=2",
    "evaluation.features=random_conv",
    "data.holdout=0.5",
    "data.size=16",
)


@pytest.fixture(autouse=True)
def _grids_of_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """How good a grid is, tests/fm/test_optimised.py asks."""
    monkeypatch.setattr(measuring, "NOISES", 2)


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(function: Any, items: Any, **_: Any) -> Any:
        return [cluster.Outcome(item, function(item)) for item in items]

    monkeypatch.setattr(cluster, "ray_map", here)
    monkeypatch.setattr("tasks.watching.say", lambda words: None)


def evaluated(run: Path, recipe: Recipe, saved: Saved, *_: Any, **__: Any) -> list[Row]:
    """What `tasks.evaluate.evaluate` gives, measured cell after cell in this process."""
    jobs = standing.jobs(run, recipe, saved)
    chosen = any(job.cell.grid == OPTIMISED for job in jobs)
    grids = evaluate._grids(jobs[0], 0) if chosen else None
    for job in (replace(job, grids=grids) for job in jobs if not standing.stands(run, job.key)):
        for share in job.missing():
            share.keep(measuring.found(share))
        measuring.row(job)
    return [row for row in read_rows(run) if row["key"] in {job.key for job in jobs}]


def measured(
    folder: Path, keys: list[str], budgets: tuple[int, ...] = (1, 2, 4), more: tuple[str, ...] = ()
) -> dict[str, Any]:
    """These methods, trained for a step and measured at a few evaluations."""
    plan = planned("photos", seeds=1, methods=keys, changes=(*CHANGES, *more))
    manifest = write_shards(open_source("photos:?tiles=80"), folder / "data", plan.recipe.data)
    found = []
    for member in plan.members:
        few = [point for point in member.recipe.evaluation.grid if point.nfe in budgets]
        settings = member.recipe.evaluation.model_copy(update={"grid": tuple(few)})
        recipe = member.recipe.model_copy(update={"evaluation": settings})
        with opened(folder / member.folder, recipe) as run:
            on_data(run, folder / "data", manifest, standing.order_of(recipe, manifest))
            values = recipe.model_dump(mode="json")
            on_workers.training({"recipe": values, "data": str(folder / "data"), "run": str(run)})
            saved = standing.trained(run, recipe, manifest).left
            assert saved is not None
            rows = tuple(row for row in evaluated(run, recipe, saved) if row["method"] != "untrained")
        found.append(Trained(member.method, member.seed, str(run), rows, trained_by=("c",)))
    return {"plan": plan, "given": Pictures(folder / "data", manifest), "found": found}


def test_jumps_and_chosen_grids_are_measured_and_drawn(tmp_path: Path) -> None:
    made = measured(tmp_path, ["fm-ot", "mean-flow"])
    ot, jumping = made["found"]
    chosen = [row for row in ot.rows if row.get("chosen_grid") == OPTIMISED and row["nfe"] == 4]
    for row in chosen:
        times = row["grid_times"]
        assert len(times) == 5 and times == sorted(times) and row["grid"] == OPTIMISED
    assert {row["solver"] for row in chosen} == {"euler", "dpm2m"}
    assert load(ot.where).grids["euler"].shape == (21, 21)
    assert {row["nfe"] for row in jumping.rows if row["solver"] == "jump"} == {1, 2, 4}
    for row in jumping.rows:  # of velocities alone there is a likelihood
        assert (row.get("nll_converged") is None) == (row["solver"] == "jump")
    pictures = beyond._pictures(made["found"])
    shapes = {tuple(images.shape) for images in pictures.values()}
    assert shapes == {(3, 3, 3, 16, 16)} and len(pictures) == 8
    one_step = [images[0] for line, images in pictures.items() if line.key == "fm-ot" and line.solver == "euler"]
    assert all(torch.equal(images, one_step[0]) for images in one_step)
    assert {line[0] for line in table(made["found"])} >= {"FM w/ OT, optimised grid", "MeanFlow, jumps"}
    asked = options(made["plan"], made["given"], METHODS, scale="mini", beyond=True)
    assert {"--beyond", "fm-ot,mean-flow"} <= {*asked}


def test_guided_lines_lead_away_from_the_first_checkpoint_that_their_training_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beyond, "evaluate", evaluated)
    monkeypatch.setattr(Tracking, "_safely", lambda *_: None)  # MLflow is asked for nothing
    kept_too = ("training.total_images=192", "training.save_images=64", "training.keep_every_images=64")
    plain = measured(tmp_path, ["fm-ot", "skewed"], budgets=(1,), more=kept_too)["found"]
    run = Path(plain[0].where)
    found, skewed = beyond.guided(plain, tmp_path, Tracking(run, Recipe.load(run)))
    assert skewed is plain[1] and found.rows[: len(plain[0].rows)] == plain[0].rows and not found.failed
    guided = found.rows[len(plain[0].rows) :]
    points = [(row["solver"], row["nfe"], row["guidance"]) for row in guided]
    due = [(point["solver"], point["nfe"], point["guidance"]) for point in guided_points("fm-ot")]
    assert sorted(points) == sorted(due)
    first, last = (saved.weights for saved in (kept(run)[0], kept(run)[-1]))
    assert {row["guide"] for row in guided} == {first} and {row["weights"] for row in guided} == {last} != {first}
    (guide,) = (tmp_path / beyond.GUIDES).iterdir()
    assert {row["guide_run"] for row in guided} == {str(guide)}
    titles = {line[0]: line for line in table([found, skewed])}
    assert titles["FM w/ OT, autoguidance 0.5"][3] != titles["FM w/ OT, autoguidance 1"][3] != ""

    (again, _) = beyond.guided(plain, tmp_path, Tracking(run, Recipe.load(run)))
    assert {row["key"] for row in again.rows} == {row["key"] for row in found.rows}
    assert [*(tmp_path / beyond.GUIDES).iterdir()] == [guide]


def test_nothing_is_drawn_by_a_training_that_is_not_at_its_end(tmp_path: Path) -> None:
    plan = planned("photos", seeds=1, methods=["fm-ot", "reflow"], changes=CHANGES)
    manifest = write_shards(open_source("photos:?tiles=80"), tmp_path / "data", plan.recipe.data)
    (reflow,) = [member for member in plan.members if member.method.drawn_by]
    run = tmp_path / "parent"
    run.mkdir()
    left = paper._measured(reflow, Pictures(tmp_path / "data", manifest), tmp_path, Tracking(run, reflow.recipe))
    assert left.failed == "fm-ot-seed0 is not trained to its end, so that nothing is drawn" and not left.rows


def test_the_grids_of_a_network_are_the_same_in_every_seed(tmp_path: Path) -> None:
    ot = measured(tmp_path, ["fm-ot"], budgets=(1,))["found"][0]
    recipe = Recipe.load(Path(ot.where))
    saved = newest(Path(ot.where))
    assert saved is not None
    job = standing.jobs(Path(ot.where), recipe, saved)[0]
    other = replace(job, cell=job.cell.model_copy(update={"seed": 5}))
    one, two = measuring.best_grids(job), measuring.best_grids(other)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)

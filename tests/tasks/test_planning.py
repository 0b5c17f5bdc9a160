"""A plan says what the pipeline would do, and leaves everything as it is."""

import shutil
from pathlib import Path

import pytest

from fm.data import open_source, write_shards
from fm.errors import SettingsError, UserError
from fm.facts import on_data
from fm.recipe import Recipe, opened
from tasks import on_workers, standing
from tasks.planning import Step, planned
from tests.tasks.test_standing import CHANGES, pictures


def test_a_plan_follows_what_is_there(tmp_path: Path) -> None:
    source, run, recipe = pictures(tmp_path / "pictures"), str(tmp_path / "runs" / "a"), Recipe.load("tiny", CHANGES)

    def plan(*changes: str, start_at: standing.Stage = "prepare") -> list[Step]:
        there = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
        steps = list(planned(source, run, Recipe.load("tiny", [*CHANGES, *changes]), start_at))
        assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == there
        return steps

    fresh = plan()
    assert [(step.stage, step.does) for step in fresh] == [(stage, "runs") for stage in standing.STAGES]
    assert "nothing is finished in" in fresh[0].why and "starts at 0 images seen" in fresh[1].why
    with pytest.raises(UserError, match="prepare has not left here"):
        plan(start_at="train")

    data = standing.folder_for(source, recipe.data, tmp_path / "runs")
    manifest = write_shards(open_source(source), data, recipe.data)
    assert [step.does for step in plan()] == ["unchanged", "runs", "runs", "runs"]
    assert [step.does for step in plan(start_at="train")] == ["left out", "runs", "runs", "runs"]
    with opened(run, recipe) as folder:
        on_data(folder, data, manifest, standing.order_of(recipe, manifest))
        on_workers.training({"recipe": recipe.model_dump(mode="json"), "data": str(data), "run": str(folder)})

    steps = plan()
    assert [step.does for step in steps] == ["unchanged", "unchanged", "runs", "runs"]
    assert "3 of 3 cells to measure: euler 2 is not measured yet" in steps[2].why
    assert [step.does for step in plan(start_at="evaluate")] == ["left out", "left out", "runs", "runs"]
    with pytest.raises(UserError, match=r"evaluate has not left here .*start at evaluate \(`--from evaluate`\)"):
        plan(start_at="report")
    with pytest.raises(SettingsError, match=r"runs/a: holds a training by another recipe \(training.seed 0, now 1\)"):
        plan("training.seed=1")
    _, refused = plan("data.seed=1")
    assert refused.does == "refused" and "trained on other data (data.seed 0, now 1)" in refused.why
    shutil.rmtree(data)
    assert [step.does for step in plan()] == ["runs", "depends", "depends", "depends"]


def test_a_run_on_other_data_is_refused_by_the_plan_too(tmp_path: Path) -> None:
    recipe, run = Recipe.load("tiny", CHANGES), tmp_path / "run"
    for name, count in (("first", 60), ("second", 64)):
        source = pictures(tmp_path / name, count)
        data = standing.folder_for(source, recipe.data, tmp_path)
        write_shards(open_source(source), data, recipe.data)
    with opened(run, recipe) as folder:
        first = standing.folder_for(str(tmp_path / "first"), recipe.data, tmp_path)
        manifest = standing.prepared(open_source(str(tmp_path / "first")), first, recipe.data).needed("prepare", first)
        on_data(folder, first, manifest)
        (folder / "checkpoints" / "000000000064").mkdir(parents=True)
    *_, last = planned(str(tmp_path / "second"), str(run), recipe)
    assert (last.stage, last.does) == ("train", "refused") and "was trained on data" in last.why

"""What stands is found by the records that the stages themselves leave, and what does not is said by its cause."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fm.checkpoints import Saved
from fm.data import Manifest, Preparation, open_source, write_shards
from fm.data.manifest import Origin, Split
from fm.data.sources.photos import Photos
from fm.errors import CheckpointError, DataError, SettingsError, UserError
from fm.facts import on_data
from fm.files import read_json, write_json
from fm.lineage import digest
from fm.recipe import Recipe, opened
from fm.report import kept
from fm.results import read_rows, row_file, write_row
from tasks import measuring, on_workers, standing

SAVED = Saved(100, 1.0, Path("c"), "0" * 64)
CHANGES = (
    "training.total_images=128",
    "evaluation.grid=[{solver='euler', nfe=2}, {solver='midpoint', nfe=4}]",
    "evaluation.samples=20",
    "evaluation.reference_images=20",
    "evaluation.nll_images=0",
    "evaluation.features=random_conv",
    "data.holdout=0.4",
)


def pictures(folder: Path, count: int = 60) -> str:
    generator = np.random.default_rng(0)
    for i in range(count):
        (folder / f"class-{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
            folder / f"class-{i % 2}" / f"{i}.png"
        )
    return str(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Data and a RUN that is trained and measured, all in this process."""
    folder = tmp_path_factory.mktemp("made")
    source, recipe = pictures(folder / "pictures"), Recipe.load("tiny", CHANGES)
    data = standing.folder_for(source, recipe.data, folder)
    manifest = write_shards(open_source(source), data, recipe.data)
    with opened(folder / "run", recipe) as run:
        on_data(run, data, manifest, standing.order_of(recipe, manifest))
        on_workers.training({"recipe": recipe.model_dump(mode="json"), "data": str(data), "run": str(run)})
        saved = standing.trained(run, recipe, manifest).left
        assert saved is not None
        for job in standing.jobs(run, recipe, saved):
            for share in job.missing():
                share.keep(measuring.found(share))
            measuring.row(job)
    return {"source": source, "data": data, "manifest": manifest, "run": run, "recipe": recipe, "saved": saved}


def test_the_folder_names_source_and_size_and_changes_with_the_settings(tmp_path: Path) -> None:
    first = standing.folder_for("photos:", Preparation(size=32), tmp_path)
    assert first.parent == tmp_path / "data"
    assert first.name.startswith("photos-32-")
    assert first != standing.folder_for("photos:", Preparation(size=32, seed=1), tmp_path)
    assert first != standing.folder_for("photos:?tiles=9", Preparation(size=32), tmp_path)


class Counting(Photos):
    """Counts how often its files are looked at."""

    looks = 0

    def digest(self) -> str:
        Counting.looks += 1
        return super().digest()


def test_the_source_is_not_looked_at_where_no_data_can_stand(tmp_path: Path) -> None:
    source, settings = Counting(uri="photos:", tiles=1), Preparation(size=8)
    assert standing.prepared(source, tmp_path, settings).left is None and Counting.looks == 0
    manifest = write_shards(source, tmp_path, settings)
    assert standing.prepared(source, tmp_path, settings).left == manifest and Counting.looks == 2
    other = standing.prepared(source, tmp_path, Preparation(size=16))
    assert (other.left, other.why) == (None, "data.size 8, now 16")


def test_data_that_are_damaged_or_made_otherwise_are_said(made: dict[str, Any], tmp_path: Path) -> None:
    source, data, recipe, run = (made[name] for name in ("source", "data", "recipe", "run"))
    assert standing.prepared(open_source(source), data, recipe.data).left == made["manifest"]
    changed = recipe.data.model_copy(update={"seed": 7})
    elsewhere = standing.folder_for(source, changed, tmp_path)
    assert standing.prepared(open_source(source), elsewhere, changed, run).why == "data.seed 0, now 7"
    more = pictures(tmp_path / "more", 64)
    found = standing.prepared(open_source(more), tmp_path / "none", recipe.data, run)
    assert f"source {source}, now {more}, digest of the source " in found.why
    with pytest.raises(UserError, match=r"prepare has not left here .*nothing is finished.*without `--from`$"):
        standing.prepared(open_source(source), tmp_path / "none", recipe.data).needed("prepare", tmp_path)
    tar = next((data / "shards").glob("*.tar"))
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-1] + b"x")
    damaged = standing.prepared(open_source(source), data, recipe.data)
    tar.write_bytes(whole)
    assert damaged.left is None and "is not what was written" in damaged.why


def test_a_training_stands_if_its_recipe_is_fulfilled(made: dict[str, Any], tmp_path: Path) -> None:
    run, recipe, manifest = (made[name] for name in ("run", "recipe", "manifest"))
    found = standing.trained(run, recipe, manifest)
    assert found.left == made["saved"] and "128 images seen" in found.why
    longer = recipe.model_copy(update={"training": recipe.training.model_copy(update={"total_images": 256})})
    going_on = standing.trained(run, longer, manifest)
    assert (going_on.left, going_on.why) == (None, "continues at 128 images seen of 256")
    assert standing.trained(tmp_path, recipe, manifest).why.startswith("starts at 0 images seen")
    other = recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": 1})})
    with pytest.raises(CheckpointError, match=r"training\.seed 0, now 1"):
        standing.trained(run, other, manifest)


def test_a_missing_row_is_said_by_what_changed(made: dict[str, Any]) -> None:
    run, recipe, saved = (made[name] for name in ("run", "recipe", "saved"))

    def why(*changes: str) -> str:
        return standing.measured(run, standing.jobs(run, Recipe.load("tiny", [*CHANGES, *changes]), saved)).why

    jobs = standing.jobs(run, recipe, saved)
    found = standing.measured(run, jobs)
    assert found.left is not None and len(found.left) == 3 and "3 rows in" in found.why
    assert why("evaluation.samples=24") == "3 of 3 cells to measure: evaluation.samples 20, now 24"
    assert "2 of 4 cells to measure: euler 4 is not measured yet; heun 4" in why(
        "evaluation.grid=[{solver='euler', nfe=2}, {solver='euler', nfe=4}, {solver='heun', nfe=4}]"
    )
    row = next(row for row in read_rows(run) if row["key"] == jobs[0].key)
    try:
        row_file(run, row["key"]).write_text(json.dumps(row | {"seconds": 0.0}))
        assert standing.measured(run, jobs).why == "1 of 3 cells to measure: a row was changed since it was measured"
        write_row(run, row | {"failed": "no memory"})
        assert standing.measured(run, jobs).why == "1 of 3 cells to measure: failed before (no memory)"
    finally:
        write_row(run, row)
    other = replace(jobs[0], key="another", weights="f" * 64)
    assert standing.measured(run, [other]).why == f"1 of 1 cell to measure: weights {saved.weights}, now {'f' * 64}"
    facts = read_json(run / "data.json")
    write_json(run / "data.json", facts | {"digest": ""})
    with pytest.raises(UserError, match="name them: `fm evaluate RUN DATA`"):
        standing.jobs(run, recipe, saved)
    write_json(run / "data.json", facts)


def test_a_page_stands_until_what_it_is_made_from_changes(made: dict[str, Any], tmp_path: Path) -> None:
    rows, saved = read_rows(made["run"]), made["saved"]
    made_of = standing.page_of(made["run"], rows, saved)
    assert standing.reported(tmp_path, made_of).why == "there is no page yet"
    (tmp_path / "report.html").write_text("page")
    kept.keep(tmp_path, digest(made_of), [tmp_path / "report.html"], made_of=made_of)
    assert standing.reported(tmp_path, made_of).left == tmp_path / "report.html"
    fewer = standing.page_of(made["run"], rows[1:], saved)
    assert standing.reported(tmp_path, fewer).why == f"rows {made_of['rows']}, now {fewer['rows']}"
    (tmp_path / "report.html").write_text("changed")
    assert standing.reported(tmp_path, made_of).why == "a file of the page is missing or was changed"


def test_a_job_for_each_cell_and_one_untrained_with_keys_of_all_that_matters(tmp_path: Path) -> None:
    facts = {"data": "", "shape": [], "classes": []}
    write_json(tmp_path / "data.json", facts | {"digest": "d"})
    recipe = Recipe.load("tiny")
    jobs = standing.jobs(tmp_path, recipe, SAVED)
    assert [job.name for job in jobs] == ["euler 4", "midpoint 8", "dopri5 0.001", "untrained, euler 4"]
    optimised = Recipe.load("tiny", ["evaluation.grid=[{solver='euler', nfe=4, grid='optimised'}]"])
    assert [job.cell.grid for job in standing.jobs(tmp_path, optimised, SAVED)] == ["optimised", ""]
    keys = [job.key for job in jobs]
    assert len(set(keys)) == len(keys)
    assert keys == [job.key for job in standing.jobs(tmp_path, recipe, SAVED)]
    for change in ("evaluation.nll_images=3", "evaluation.reference_images=30", "evaluation.seed=1"):
        other = standing.jobs(tmp_path, Recipe.load("tiny", [change]), SAVED)
        assert not set(keys) & {job.key for job in other}, change
    moved = standing.jobs(tmp_path, recipe, Saved(200, 1.0, Path("c"), "1" * 64))
    assert set(keys) & {job.key for job in moved} == {jobs[-1].key}  # the untrained network is still the same
    write_json(tmp_path / "data.json", facts | {"digest": ""})
    with pytest.raises(DataError, match=r"was imported, and on what data .* name them: `fm evaluate RUN DATA`"):
        standing.jobs(tmp_path, recipe, SAVED)


def test_kept_checkpoints_have_a_job_for_the_point_along_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "data.json", {"data": "", "shape": [], "classes": [], "digest": "d"})
    places = [Saved(place, 1.0, Path("c"), str(place) * 64) for place in (1, 2, 3)]
    monkeypatch.setattr(standing, "kept", lambda run: places)
    for change, last in (("midpoint', nfe = 8", []), ("euler', nfe = 2", ["3" * 64])):
        recipe = Recipe.load("tiny", [f"evaluation.along={{solver = '{change}}}"])
        jobs = standing.jobs(tmp_path, recipe, places[-1])
        own = [job for job in jobs[4:] if not job.cell.nll_images]
        assert [job.weights for job in own] == ["1" * 64, "2" * 64, *last]
        assert len(jobs) == 4 + len(own)
        rows = [{"weights": job.weights, "method": "FM w/ OT"} for job in own]
        assert [standing.along_training(row, places[-1]) for row in rows] == [True, True, *[False for _ in last]]


@pytest.mark.parametrize(
    ("images", "heldout", "says"),
    [
        (10, 3, "3 of its 10 images are held out, .*: 20 are due; take a source of 80 images or more"),
        (150, 15, "15 of its 150 images are held out, .*: 20 are due; set data.holdout=0.2"),
        (100, 0, "0 of its 100 images"),
    ],
)
def test_too_few_held_out_images_are_said_with_a_way_out(images: int, heldout: int, says: str) -> None:
    counts = {"train": images - heldout, "test": heldout}
    splits = {name: Split.model_construct(images=count) for name, count in counts.items()}
    origin = Origin(source="few", digest="", inputs="", planned=counts, missing={})
    manifest = Manifest.model_construct(origins=(origin,), splits=splits)
    with pytest.raises(DataError, match=says):
        standing.judgeable(manifest)


def test_stages_follow_each_other() -> None:
    assert standing.onward("prepare") == standing.STAGES and standing.onward("report") == ("report",)
    assert standing.again("train") == "start at train (`--from train`)"


def test_what_cannot_be_judged_is_said_before_the_training() -> None:
    pairs = Recipe.load("superres-mini")
    standing.check_judged(pairs, 256, [])
    with pytest.raises(
        SettingsError, match=r"256 samples are asked for, and there are 255 held-out images.*set it to 255"
    ):
        standing.check_judged(pairs, 255, [])
    guided = Recipe.load("tiny", ["class_conditional=true", "evaluation.grid=[{solver='euler', nfe=4, guidance=1.0}]"])
    standing.check_judged(guided, 30, ["cat", "dog"])
    with pytest.raises(SettingsError, match="the data have no classes"):
        standing.check_judged(guided, 30, [])

from pathlib import Path

import pytest

from fm.checkpoints import Saved
from fm.data import Manifest
from fm.data.manifest import Origin, Split
from fm.errors import CheckpointError, DataError
from fm.files import read_json, write_json
from fm.recipe import Recipe
from tasks import evaluate

SAVED = Saved(100, 1.0, Path("c"), "0" * 64)


def test_a_job_for_each_cell_and_one_untrained_with_keys_of_all_that_matters(tmp_path: Path) -> None:
    facts = {"data": "", "shape": [], "classes": []}
    write_json(tmp_path / "data.json", facts | {"digest": "d"})
    recipe = Recipe.load("tiny")
    jobs = evaluate._jobs(tmp_path, recipe, SAVED)
    assert [job.name for job in jobs] == ["euler 4", "midpoint 8", "dopri5 0.001", "untrained, euler 4"]
    keys = [job.key for job in jobs]
    assert len(set(keys)) == len(keys)
    assert keys == [job.key for job in evaluate._jobs(tmp_path, recipe, SAVED)]
    for change in ("evaluation.nll_images=3", "evaluation.reference_images=30", "evaluation.seed=1"):
        other = evaluate._jobs(tmp_path, Recipe.load("tiny", [change]), SAVED)
        assert not set(keys) & {job.key for job in other}, change
    moved = evaluate._jobs(tmp_path, recipe, Saved(200, 1.0, Path("c"), "1" * 64))
    assert set(keys) & {job.key for job in moved} == {jobs[-1].key}  # the untrained network is still the same
    write_json(tmp_path / "data.json", facts | {"digest": ""})
    with pytest.raises(DataError, match=r"was imported, and on what data .* name them: `fm evaluate RUN DATA`"):
        evaluate._jobs(tmp_path, recipe, SAVED)


def test_kept_checkpoints_have_a_job_for_the_point_along_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "data.json", {"data": "", "shape": [], "classes": [], "digest": "d"})
    places = [Saved(place, 1.0, Path("c"), str(place) * 64) for place in (1, 2, 3)]
    monkeypatch.setattr(evaluate, "kept", lambda run: places)
    for change, last in (("midpoint', nfe = 8", []), ("euler', nfe = 2", ["3" * 64])):
        recipe = Recipe.load("tiny", [f"evaluation.along={{solver = '{change}}}"])
        jobs = evaluate._jobs(tmp_path, recipe, places[-1])
        own = [job for job in jobs[4:] if not job.cell.nll_images]
        assert [job.weights for job in own] == ["1" * 64, "2" * 64, *last]
        assert len(jobs) == 4 + len(own)
        rows = [{"weights": job.weights, "method": "FM w/ OT"} for job in own]
        assert [evaluate.along_training(row, places[-1]) for row in rows] == [True, True, *[False for _ in last]]


def test_a_run_without_a_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no whole checkpoint; train first"):
        evaluate.trained(tmp_path)


def test_the_checkpoint_that_came_nearest_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("tasks.watching.say", said.append)
    recipe, other = Recipe.load("tiny"), "untrained"
    for place, measured, best in ((1, 5.0, True), (2, 6.0, False), (3, 4.0, True)):
        saved = Saved(place, 1.0, tmp_path / "checkpoints" / f"{place:012d}", str(place))
        saved.path.mkdir(parents=True)
        rows = [{"weights": w, "fd": value, "fd_low": 0.0} for w, value in ((str(place), measured), (other, 1.0))]
        evaluate.keep_if_best(tmp_path, recipe, saved, rows)
        assert (read_json(tmp_path / "checkpoints" / "best.json")["checkpoint"] == saved.path.name) is best
    assert said == [f"evaluate: the best checkpoint so far, fd {value}: kept" for value in (5, 4)]


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
        evaluate.judgeable(manifest)

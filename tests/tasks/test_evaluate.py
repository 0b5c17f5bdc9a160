from pathlib import Path

import pytest

from fm.cells import Cell
from fm.checkpoints import Saved
from fm.errors import CheckpointError, NumericalError
from fm.files import read_json
from fm.keeping import named
from fm.recipe import Recipe
from tasks import evaluate
from tasks.items import Outcome
from tasks.measuring import Job

SAVED = Saved(100, 1.0, Path("c"), "0" * 64)


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


def test_a_network_too_stiff_to_solve_loses_its_errors_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("tasks.watching.say", said.append)
    monkeypatch.setattr("tasks.measuring.solutions_file", lambda job: tmp_path / "none")
    settings, cell = Recipe.load("tiny").evaluation, Cell(solver="euler", nfe=4, error_images=8)
    job = Job("", "runs/x", tmp_path, settings, cell, "a" * 64)

    def ends_by(error: Exception) -> str:
        monkeypatch.setattr("tasks.evaluate.mapped", lambda *_: [Outcome(job, error=error)])
        return evaluate._solve(job, 0.0)

    assert "the step size vanished" in ends_by(NumericalError("the step size vanished", where="t = 0.99"))
    assert "rows lack numerical errors and ways" in said[-1] and not (tmp_path / "none").exists()
    with pytest.raises(OSError, match="no space"):
        ends_by(OSError("no space"))


def test_the_checkpoint_of_a_guide_stays_where_it_lies(tmp_path: Path) -> None:
    weights, settings = "b" * 64, Recipe.load("tiny").evaluation
    grid = [Cell(solver="euler", nfe=4, guidance=1.0, guide=weights), Cell(solver="euler", nfe=4)]
    jobs = [Job("", "runs/x", tmp_path, settings, cell, "a" * 64) for cell in grid]
    (tmp_path / "weaker").mkdir()
    for _ in range(2):
        evaluate.note_guided(str(tmp_path / "weaker"), "runs/x", jobs)
    (noted,) = named(tmp_path / "weaker")
    assert (noted["weights"], noted["model"]) == (weights, "guides runs/x")
    evaluate.note_guided("s3://bucket/weaker", "runs/x", jobs)

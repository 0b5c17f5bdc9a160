import re
from pathlib import Path
from typing import Any

import pytest

from flows.commands.evaluating import guidances, measurements
from fm.errors import SettingsError
from fm.recipe import Recipe


def test_the_options_of_evaluate_are_changes_of_its_recipe() -> None:
    changes = measurements("euler,midpoint,dopri5", "4,8", "1e-3", samples=30, nll_k=2, nll_probe="both", seeds=None)
    asked = Recipe.load("tiny", changes).evaluation
    assert (asked.samples, asked.nll_k, asked.nll_probe, asked.seeds) == (30, 2, "both", 1)
    grid = [("euler", 4), ("euler", 8), ("midpoint", 4), ("midpoint", 8), ("dopri5", None)]
    assert [(c.solver, c.nfe) for c in asked.grid] == grid and asked.grid[-1].tolerance == 1e-3
    both = Recipe.load("tiny", measurements("dopri5", "", "1e-3,1e-5", "joint,per_sample")).evaluation.grid
    assert [(c.tolerance, c.control) for c in both] == [(t, c) for t in (1e-3, 1e-5) for c in ("joint", "per_sample")]
    assert measurements("", "") == []


@pytest.mark.parametrize(
    ("solvers", "nfe", "tolerances", "says"),
    [
        ("euler", "", "", "euler needs a budget; add --nfe"),
        ("dopri5", "4", "", "dopri5 needs a budget; add --tolerances"),
        ("", "4", "", "--solvers and --nfe: go together"),
        ("euler", "4,x", "", "not a list of whole numbers"),
        ("dopri5", "", "fine", "'fine' is not a list of numbers"),
        ("eulr", "4", "", "'euler'"),
        ("euler", "4", "1e-3", "--tolerances: changes nothing of euler"),
    ],
)
def test_options_of_evaluate_that_cannot_be_meant(solvers: str, nfe: str, tolerances: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        measurements(solvers, nfe, tolerances)


def test_grids_of_solvers_that_choose_their_own_steps_are_refused() -> None:
    with pytest.raises(SettingsError, match="--grids: changes nothing of dopri5; they choose their own steps"):
        measurements("dopri5", "", "1e-3", grids="edm")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "name one"),
        (["run", "--rerun", "row.json"], "name one"),
        (["--images", "photos:"], "DATA: is missing"),
        (["data", "--images", "photos:", "--reference", "all"], "neither heldout nor training"),
        (["data", "--images", "photos:"], "no prepared data set here"),
        (["--rerun", "row.json"], "row.json: is no row"),
        (["--rerun", "row.json", "--samples", "30"], "--rerun: takes no --samples"),
        (["data", "--images", "photos:", "--seeds", "3", "--nfe", "4"], "--images: takes no --seeds, --nfe"),
        (["run", "--reference", "training"], "--reference: goes with --images"),
        (["run", "--set", "training.seed=1"], "only evaluation"),
    ],
)
def test_what_evaluate_refuses_before_it_starts(tmp_path: Path, command: Any, words: list[str], says: str) -> None:
    done = command("evaluate", *words, cwd=tmp_path)
    assert done.returncode == 2 and re.search(says, done.stderr), done.stderr
    assert not list(tmp_path.iterdir())


def test_strengths_of_guidance_are_points_of_the_grid():
    guided = guidances("0,1.5", "0.2,0.8")
    grid = Recipe.load("tiny", ["class_conditional=true", *measurements("euler", "4,8", guided=guided)]).evaluation.grid
    assert [(point.nfe, point.guidance, point.interval) for point in grid] == [
        (4, None, None),
        (8, None, None),
        (4, 1.5, (0.2, 0.8)),
        (8, 1.5, (0.2, 0.8)),
    ]
    assert guidances("", "") == [""]
    with pytest.raises(SettingsError, match="--guidance: 'one' is not a list of numbers"):
        guidances("one", "")
    with pytest.raises(SettingsError, match="--guidance-interval: goes with --guidance"):
        guidances("", "0,1")
    with pytest.raises(SettingsError, match="--guidance: goes with --solvers"):
        measurements("", "", guided=guided)


def test_each_fixed_budget_is_measured_on_each_grid() -> None:
    changes = measurements("euler,dopri5", "4,8", "1e-3", grids="uniform,optimised")
    grid = Recipe.load("tiny", changes).evaluation.grid
    due = [("uniform", 4), ("uniform", 8), ("optimised", 4), ("optimised", 8), (None, None)]
    assert [(point.grid, point.nfe) for point in grid] == due
    with pytest.raises(SettingsError, match="--grids: goes with --solvers"):
        measurements("", "", grids="edm")

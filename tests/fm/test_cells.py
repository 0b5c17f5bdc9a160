from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError

from fm.cells import Budget, Cell, Evaluation, along, cells, check_guidance, check_guided_budgets, in_grid, tightest
from fm.errors import SettingsError
from fm.objectives import FlowMatching
from fm.optimised import OPTIMISED
from fm.paths import OTPath, VPPath
from fm.recipe import Recipe
from fm.solvers import GRIDS, solve

GRID = [{"solver": "euler", "nfe": 2}, {"solver": "dopri5", "tolerance": 1e-3, "samples": 20}]


def settings(**changes: Any) -> Evaluation:
    values = {"grid": GRID, "samples": 40, "batch": 16, "seed": 5, "features": "random_conv", "distances": ("fd",)}
    return Evaluation(**(values | {"reference_images": 100, "nll_images": 20, "nll_k": 1} | changes))


def test_each_point_has_all_its_seeds_and_nothing_else_differs() -> None:
    found = cells(settings(seeds=3))
    assert [(cell.solver, cell.seed) for cell in found] == [(s, n) for s in ("euler", "dopri5") for n in (5, 6, 7)]
    assert len({cell.model_copy(update={"seed": 0}) for cell in found}) == 2
    with pytest.raises(ValidationError, match="seeds"):
        settings(seeds=0)


def test_the_solvers_own_error_is_measured_on_the_first_seed_whichever_evaluation_asks() -> None:
    first, second = cells(settings(grid=GRID[:1], seeds=2, error_images=8))
    assert (first.error_images, second.error_images) == (8, 0)
    assert cells(settings(grid=GRID[:1], seed=6, error_images=8)) != [second]
    assert cells(settings(grid=GRID[:1], seed=6)) == [second]


def test_a_cell_holds_everything_that_is_asked_for_but_the_features() -> None:
    values = {
        "sampling_precision": "tf32",
        "nonfinite": "drop",
        "nll_probe": "both",
        "nll_training_images": 3,
        "error_images": 4,
    }
    cell = cells(settings(**values))[0]
    assert {name: getattr(cell, name) for name in values} == values
    assert set(Evaluation.model_fields) - set(Cell.model_fields) == {"seeds", "features", "along"}


def test_a_guided_point_has_no_likelihood_and_no_converged_solutions() -> None:
    point = GRID[0] | {"guidance": 1.5, "interval": (0.2, 0.8)}
    plain, guided = cells(settings(grid=[GRID[0], point], error_images=8))
    assert (plain.guidance, plain.interval, str(plain)) == (0.0, (0.0, 1.0), "euler 2")
    assert (guided.guidance, guided.nll_images, guided.nll_training_images, guided.error_images) == (1.5, 0, 0, 0)
    assert str(guided) == "euler 2, guidance 1.5 at 0.2 to 0.8" and plain.error_images == 8
    assert str(guided.model_copy(update={"guide": "f" * 64})).endswith(", by ffffffff")


@pytest.mark.parametrize(
    ("point", "more", "says"),
    [
        ({"interval": (0.2, 0.8)}, {}, r"grid.0.interval: there is no guidance in this interval"),
        ({"guidance": 1.0, "interval": (0.8, 0.2)}, {}, r"grid.0.interval: .* is no part of the times"),
        ({}, {"guide": "runs/weak"}, "evaluation.guide: guides no point of the grid"),
        ({"guidance": 1.0}, {"class_conditional": False}, "this one has no labels; name a weaker network"),
        ({"guidance": 1.0}, {"label_drop": 0.0}, "which was never trained"),
    ],
)
def test_guidance_away_from_nothing_is_refused(point, more, says) -> None:
    own = settings(grid=[GRID[0] | point], guide=more.pop("guide", None))
    given = {"class_conditional": True, "label_drop": 0.1} | more
    with pytest.raises(SettingsError, match=says):
        cells(own)
        check_guidance(own, **given)
    check_guidance(settings(grid=[GRID[0] | {"guidance": 1.0}], guide="runs/weak"), False, 0.0)


@pytest.mark.parametrize("path", [OTPath(), VPPath()])
def test_guided_budgets_are_refused_before_anything_starts_if_and_only_if_the_solver_refuses_them(path) -> None:
    target, model = FlowMatching(path), lambda x, t, *_: torch.zeros_like(x)
    points = [("euler", 15), ("euler", 16), ("rk4", 12), ("rk4", 16), ("dpm2m", 5), ("heun", 12), ("midpoint", 10)]
    refused, named = set(), set()
    for solver, nfe in points:
        for interval in ((0.0, 1.0), (0.2, 0.8), (0.5, 1.0)):
            point = {"solver": solver, "nfe": nfe, "guidance": 1.0, "interval": interval}
            velocity = target.velocity(model, guidance=1.0, interval=interval, guide=model)
            try:
                solve(velocity, torch.zeros(1, 3), method=solver, nfe=nfe)
            except SettingsError:
                refused.add((solver, nfe, interval))
            try:
                check_guided_budgets(settings(grid=[point], guide="runs/weak"), target)
            except SettingsError as error:
                assert f"{solver} {nfe} (the nearest is " in str(error)
                named.add((solver, nfe, interval))
    assert named == refused and ("euler", 15, (0.0, 1.0)) in named and ("euler", 16, (0.0, 1.0)) not in named
    both = [{"solver": "euler", "nfe": nfe, "guidance": 1.0} for nfe in (7, 8, 9)]
    with pytest.raises(SettingsError, match=r"euler 7 \(the nearest is 6 or 8\), euler 9 \(the nearest is 8 or 10\)"):
        check_guided_budgets(settings(grid=both, guide="runs/weak"), target)


def test_an_adaptive_solver_shares_its_steps_or_not_and_fixed_ones_have_none_to_share() -> None:
    (cell,) = cells(settings(grid=[{"solver": "dopri5", "tolerance": 1e-3, "control": "per_sample"}]))
    assert cell.options() == {"method": "dopri5", "rtol": 1e-3, "atol": 1e-3, "control": "per_sample"}
    assert str(cell) == "dopri5 0.001 per sample" and cell.options(finer=True)["rtol"] == 1e-4
    with pytest.raises(SettingsError, match=r"grid.0.control: euler has fixed steps"):
        cells(settings(grid=[{"solver": "euler", "nfe": 2, "control": "per_sample"}]))


def test_a_point_chooses_its_time_grid() -> None:
    recipe = Recipe.load("tiny", ['evaluation.grid=[{solver="euler",nfe=4,grid="edm"},{solver="euler",nfe=4}]'])
    named, plain = cells(recipe.evaluation)
    assert named.options()["grid"] == "edm" and str(named) == "euler 4, edm grid"
    choices = set(get_args(get_args(Budget.model_fields["grid"].annotation)[0]))
    assert choices == {*GRIDS, OPTIMISED}
    assert plain.options()["grid"] is None and str(plain) == "euler 4"
    wrong = {
        '{solver="dopri5",tolerance=1e-3,grid="edm"}': "dopri5 chooses its own steps",
        '{solver="euler",nfe=4,grid="optimized"}': "or 'optimised'",
        '{solver="jump",nfe=1,grid="optimised"}': "is not chosen for jump",
        '{solver="euler",nfe=4,grid="optimised",guidance=1}': "without guidance",
        '{solver="midpoint",nfe=42,grid="optimised"}': "for up to 20 steps, and midpoint 42 makes 21",
    }
    for point, says in wrong.items():
        with pytest.raises(SettingsError, match=says):
            cells(Recipe.load("tiny", [f"evaluation.grid=[{point}]"]).evaluation)


def test_what_is_drawn_with_meanwhile_is_the_finest_adaptive_solver_of_the_grid() -> None:
    finer = [*GRID, {"solver": "dopri5", "tolerance": 1e-5}]
    assert (
        str(tightest(settings(grid=finer))) == "dopri5 1e-05"
        and str(tightest(settings(grid=GRID[:1]))) == "dopri5 0.001"
    )


def test_a_point_decides_itself_whether_images_are_scored() -> None:
    grid = [Budget(solver="euler", nfe=4), Budget(solver="euler", nfe=8, nll_images=0)]
    grid += [Budget(solver="euler", nfe=2, nll_images=7)]
    found = cells(settings(grid=grid, nll_images=3, nll_training_images=5))
    assert [(cell.nll_images, cell.nll_training_images) for cell in found] == [(3, 5), (0, 0), (7, 5)]


def test_what_is_measured_along_a_training_are_distances_alone() -> None:
    assert along(settings()) is None
    cell = along(settings(along=Budget(solver="midpoint", nfe=8), error_images=9, nll_images=3))
    assert cell is not None
    assert (cell.solver, cell.nfe, cell.nll_images, cell.error_images) == ("midpoint", 8, 0, 0)
    grid = cells(settings(grid=[*GRID, Budget(solver="midpoint", nfe=8)], error_images=9))
    assert in_grid(cell, grid) and not in_grid(cell.model_copy(update={"samples": 20}), grid)
    with pytest.raises(SettingsError, match=r"evaluation\.along"):
        cells(settings(along=Budget(solver="dopri5", nfe=8)))

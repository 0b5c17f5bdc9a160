"""Grids chosen for a network: errors of steps are those that are made, the least sum is found, and it is the better."""

from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path as File

import pytest
import torch
from safetensors.torch import save_file

from fm.errors import DataError, SettingsError
from fm.flow import Flow
from fm.models import MLP
from fm.objectives import FlowMatching
from fm.optimised import (
    CALLS,
    FEW,
    FINE,
    MOST,
    best_grids,
    fewest_errors,
    grid_of,
    grids_file,
    kept_grids,
    laid_out,
)
from fm.paths import OTPath, Path, VPPath
from fm.solvers import SOLVERS, solve
from fm.solvers.grids import GRIDS
from tests.problems import PATHS, by_kind, correlated_gaussian, randn

every_path = pytest.mark.parametrize("path", PATHS, ids=by_kind)


def test_a_followed_grid_is_the_best_of_all_where_each_step_stands_alone() -> None:
    """Of two steps all grids can be tried; that of least error among them is found."""
    path = OTPath()
    data = correlated_gaussian(path, scale=0.1)
    x_0 = path.sample_source(randn(8, 3))
    exact = data.transport(x_0, 0.0, path.t_max)
    grids = best_grids(data.velocity, x_0.repeat(2, 1), path)  # the same noises choose and judge
    assert set(grids) == set(laid_out()) == {"euler", "midpoint", "heun", "rk4", "dpm2m"}
    for name in ("euler", "dpm2m"):

        def error(middle: int, name: str = name) -> float:
            def grid(path: object, start: float, end: float, count: int) -> list[float]:
                return [start, *[middle / FINE] * (count - 1), end]

            made = solve(data.velocity, x_0, name, nfe=2, grid=grid, path=path).x
            return float((made - exact).square().mean(1).sqrt().mean())

        least = min(range(1, FINE), key=error)
        assert error(round(FINE * float(grids[name][2, 1]))) == pytest.approx(error(least), rel=1e-3)


@pytest.mark.parametrize("scale", [0.1, 0.5])
def test_no_grid_misses_more_than_a_known_one_on_the_noises_that_judge(scale: float) -> None:
    path = OTPath()
    data = correlated_gaussian(path, scale=scale)
    both = path.sample_source(randn(8, 3))
    x_0 = both[4:]
    exact = solve(data.velocity, x_0, "dopri5", rtol=1e-4, atol=1e-4, control="per_sample", path=path).x
    for name, chosen in best_grids(data.velocity, both, path).items():
        for steps in (1, 2, 5, 8, 10, 20):

            def missed(grid: object, name: str = name, nfe: int = steps * SOLVERS[name].stages) -> float:
                found = solve(data.velocity, x_0, name, nfe=nfe, grid=grid, path=path).x  # type: ignore[arg-type]
                return float((found - exact).square().mean(1).sqrt().mean())

            known = GRIDS if SOLVERS[name].stages == 1 or steps <= FEW else ("uniform",)
            assert missed(grid_of(chosen)) <= min(map(missed, known))


def test_a_choice_takes_about_as_many_calls_as_are_foretold() -> None:
    path, called = OTPath(), 0

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        nonlocal called
        called += len(x)
        return -x

    best_grids(velocity, randn(4, 2), path)
    assert called / 4 == pytest.approx(CALLS, rel=0.1)


@every_path
def test_grids_lead_from_end_to_end_in_so_many_steps(path: Path) -> None:
    data = correlated_gaussian(path)
    for chosen in best_grids(data.velocity, path.sample_source(randn(4, 3)), path).values():
        for steps in range(1, MOST + 1):
            times = chosen[steps, : steps + 1].tolist()
            assert times[0] == 0 and times[-1] == path.t_max and all(a < b for a, b in pairwise(times))
            assert (chosen[steps, steps + 1 :] == -1).all()


def test_the_least_sum_is_found() -> None:
    errors = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) + torch.full((8, 8), torch.inf).tril()
    errors[torch.arange(8)[:, None] < torch.arange(8)] = torch.rand(28, generator=torch.Generator().manual_seed(1))
    for steps in range(1, 8):
        ways = [(0, *inner, 7) for inner in combinations(range(1, 7), steps - 1)]
        least = min(sum(float(errors[a, b]) for a, b in pairwise(way)) for way in ways)
        found = fewest_errors(errors, steps)
        assert found[0] == 0 and found[-1] == 7 and len(found) == steps + 1
        assert sum(float(errors[a, b]) for a, b in pairwise(found)) == pytest.approx(least)


@pytest.mark.parametrize(
    ("name", "budgets"),
    [("euler", (4, 8)), ("dpm2m", (4, 8)), ("midpoint", (4, 8)), ("heun", (8, 16)), ("rk4", (8, 16))],
)
def test_few_steps_err_less_on_the_chosen_grid(name: str, budgets: tuple[int, ...]) -> None:
    """Narrow data: the velocity turns steep towards their end."""
    path = OTPath()
    data = correlated_gaussian(path, scale=0.1)
    chosen = best_grids(data.velocity, path.sample_source(randn(16, 3)), path)[name]
    x_0 = path.sample_source(randn(50, 3, seed=8))
    exact = data.transport(x_0, 0.0, path.t_max)

    def error(grid: object, nfe: int) -> float:
        return float((solve(data.velocity, x_0, name, nfe=nfe, grid=grid, path=path).x - exact).norm(dim=1).mean())  # type: ignore[arg-type]

    for nfe, most in zip(budgets, (0.8, 1.05), strict=True):
        assert error(grid_of(chosen), nfe) < most * min(error("uniform", nfe), error("edm", nfe))


def test_a_grid_leads_back_the_same_way_and_is_of_few_steps() -> None:
    path = VPPath()
    chosen = torch.full((MOST + 1, MOST + 1), -1.0, dtype=torch.float64)
    chosen[5, :6] = torch.tensor([0, 0.1, 0.3, 0.5, 0.9, path.t_max], dtype=torch.float64)
    grid = grid_of(chosen)
    there, back = grid(path, 0.0, path.t_max, 5), grid(path, path.t_max, 0.0, 5)
    assert there == back[::-1] and there[0] == 0 and there[-1] == path.t_max
    assert there[1] == 0.1
    with pytest.raises(SettingsError, match="is chosen for up to 20 steps, not for 32; choose uniform"):
        grid(path, 0.0, path.t_max, 32)
    with pytest.raises(SettingsError, match="leads from noise to data or back"):
        grid(path, 0.1, 0.5, 5)


def test_a_flow_chooses_from_what_was_measured_of_it() -> None:
    torch.manual_seed(0)
    flow = Flow(MLP(2, 16, 2), FlowMatching(OTPath()), (2,))
    with pytest.raises(SettingsError, match=r"no grid has been optimised for euler; `fm evaluate RUN"):
        flow.sample(4, method="euler", nfe=4, grid="optimised")
    own = replace(flow, grids=flow.best_grids())
    even, chosen = (own.sample(4, method="euler", nfe=4, grid=grid) for grid in ("uniform", "optimised"))
    assert chosen.shape == (4, 2) and not torch.equal(even, chosen)
    assert own.encode(chosen, method="heun", nfe=8, grid="optimised").shape == (4, 2)
    assert own.bits_per_dim(chosen, method="heun", nfe=8, grid="optimised").bpd.shape == (4,)


def test_what_a_run_keeps_is_of_its_weights(tmp_path: File) -> None:
    assert kept_grids(tmp_path, "a" * 64) == {}
    grids_file(tmp_path, "a" * 64).parent.mkdir()
    save_file({"euler": torch.ones(2, 2)}, grids_file(tmp_path, "a" * 64))
    assert torch.equal(kept_grids(tmp_path, "a" * 64)["euler"], torch.ones(2, 2))
    assert kept_grids(tmp_path, "b" * 64) == {}
    grids_file(tmp_path, "a" * 64).write_bytes(b"no such thing")
    with pytest.raises(DataError, match="is damaged; delete it"):
        kept_grids(tmp_path, "a" * 64)

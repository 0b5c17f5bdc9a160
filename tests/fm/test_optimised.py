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
from fm.optimised import FINE, fewest_errors, grid_of, grids_file, kept_grids, laid_out, step_errors
from fm.paths import OTPath, Path, VPPath
from fm.solvers import solve
from tests.problems import PATHS, by_kind, correlated_gaussian, randn

every_path = pytest.mark.parametrize("path", PATHS, ids=by_kind)


@every_path
def test_the_errors_are_those_of_single_steps(path: Path) -> None:
    data = correlated_gaussian(path)
    x_0 = path.sample_source(randn(6, 3))
    errors = step_errors(data.velocity, x_0, path)
    assert set(errors) == set(laid_out()) == {"euler", "midpoint", "heun", "rk4", "dpm2m"}
    for name in ("euler", "dpm2m"):
        for i, j in ((20, 21), (16, 40), (40, 60)):
            t, s = (path.t_max * place / FINE for place in (i, j))
            start, end = (data.transport(x_0, 0.0, time) for time in (t, s))
            made = solve(data.velocity, start, name, nfe=1, t_span=(t, s), grid="uniform", path=path).x
            due = (made - end).square().mean(1).sqrt().mean()
            # The fine solve's own error is below 1e-4 of a state as large as the source.
            torch.testing.assert_close(float(errors[name][i, j]), float(due), rtol=0.02, atol=2e-3 * path.source_std)
        assert errors[name].isinf().tril().sum() == (FINE + 1) * (FINE + 2) / 2


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
    ("name", "budgets"), [("euler", (4, 8)), ("midpoint", (4, 8)), ("heun", (8, 16)), ("rk4", (8, 16))]
)
def test_few_steps_err_less_on_the_chosen_grid(name: str, budgets: tuple[int, ...]) -> None:
    """Narrow data: the velocity turns steep towards their end."""
    path = OTPath()
    data = correlated_gaussian(path, scale=0.1)
    errors = step_errors(data.velocity, path.sample_source(randn(16, 3)), path)[name]
    x_0 = path.sample_source(randn(50, 3, seed=8))
    exact = data.transport(x_0, 0.0, path.t_max)

    def error(grid: object, nfe: int) -> float:
        return float((solve(data.velocity, x_0, name, nfe=nfe, grid=grid, path=path).x - exact).norm(dim=1).mean())  # type: ignore[arg-type]

    for nfe, most in zip(budgets, (0.8, 1.05), strict=True):
        assert error(grid_of(errors), nfe) < most * min(error("uniform", nfe), error("edm", nfe))


def test_a_grid_leads_back_the_same_way_and_many_steps_are_even() -> None:
    path = VPPath()
    grid = grid_of(torch.rand(FINE + 1, FINE + 1, generator=torch.Generator().manual_seed(0)))
    there, back = grid(path, 0.0, path.t_max, 5), grid(path, path.t_max, 0.0, 5)
    assert there == back[::-1] and there[0] == 0 and there[-1] == path.t_max
    assert grid(path, 0.0, path.t_max, FINE) == [path.t_max * i / FINE for i in range(FINE)] + [path.t_max]
    assert len(grid(path, 0.0, path.t_max, 200)) == 201
    with pytest.raises(SettingsError, match="leads from noise to data or back"):
        grid(path, 0.1, 0.5, 5)


def test_a_flow_chooses_from_what_was_measured_of_it() -> None:
    torch.manual_seed(0)
    flow = Flow(MLP(2, 16, 2), FlowMatching(OTPath()), (2,))
    with pytest.raises(SettingsError, match=r"no grid has been optimised for euler; `fm evaluate RUN"):
        flow.sample(4, method="euler", nfe=4, grid="optimised")
    own = replace(flow, grids=flow.step_errors())
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

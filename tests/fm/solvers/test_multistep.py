"""The two-step method: exact where the data prediction is constant, of second order, one call a step."""

import math

import pytest
import torch
from torch import Tensor

from fm.errors import NumericalError, SettingsError
from fm.paths import OTPath, Path, VPPath
from fm.solvers import solve
from tests.problems import PATHS, FiniteData, by_kind, correlated_gaussian, randn

every_path = pytest.mark.parametrize("path", PATHS, ids=by_kind)


@every_path
def test_one_data_point_is_reached_exactly_in_any_number_of_steps(path: Path) -> None:
    point = randn(1, 2, seed=1)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return path.conditional_velocity(x, point.expand_as(x), t)

    z = randn(5, 2)
    start = path.sample(z, point.expand(5, 2), torch.tensor(0.0, dtype=torch.float64)).x_t
    end = path.sample(z, point.expand(5, 2), torch.tensor(path.t_max, dtype=torch.float64)).x_t
    for nfe in (1, 2, 7):
        solution = solve(velocity, start, "dpm2m", nfe=nfe, t_span=(0.0, path.t_max), path=path)
        assert solution.nfe == nfe
        torch.testing.assert_close(solution.x, end, rtol=0, atol=1e-9 * path.source_std)


@every_path
def test_second_order(path: Path) -> None:
    """On Gaussian data, over a span without the singular ends, where steps are even in log-SNR."""
    data = correlated_gaussian(path)
    x_0, span = path.sample_source(randn(6, 3)), (0.2, 0.9)
    exact = data.transport(x_0, *span)
    errors = [
        (solve(data.velocity, x_0, "dpm2m", nfe=nfe, t_span=span, path=path).x - exact).abs().max().item()
        for nfe in (128, 256)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("path", [OTPath(), VPPath()], ids=by_kind)
def test_fewer_calls_than_midpoint_for_the_same_error(path: Path) -> None:
    """From source to data: 16 calls come closer to the exact ends than midpoint's 16, and than its own 8."""
    data = FiniteData(path, randn(100, 2, seed=5))

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return data.mean_of(lambda x, x_1: path.conditional_velocity(x, x_1, t), x, t)

    x_0, span = path.sample_source(randn(64, 2)), (0.0, 0.95 * path.t_max)
    exact = solve(velocity, x_0, t_span=span, rtol=1e-6, atol=1e-6).x

    def error(method: str, nfe: int) -> float:
        return (solve(velocity, x_0, method, nfe=nfe, t_span=span, path=path).x - exact).abs().mean().item()

    assert error("dpm2m", 16) < error("dpm2m", 8) / 2
    assert error("dpm2m", 16) < error("midpoint", 16)


def test_what_it_cannot_do_is_refused() -> None:
    path, x = PATHS[0], randn(2, 2)
    with pytest.raises(SettingsError, match="give path"):
        solve(lambda x, t: x, x, "dpm2m", nfe=4, grid="uniform")
    with pytest.raises(SettingsError, match="only carries a state from noise to data"):
        solve(lambda x, t: x, x, "dpm2m", nfe=4, t_span=(1.0, 0.0), path=path)
    with pytest.raises(SettingsError, match="no states between its steps"):
        solve(lambda x, t: x, x, "dpm2m", nfe=4, at=(0.5,), path=path)
    with pytest.raises(NumericalError, match="sample 0: the velocity is not finite at t = 0"):
        solve(lambda x, t: x / 0, x, "dpm2m", nfe=4, path=path)

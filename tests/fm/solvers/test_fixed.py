"""Fixed steps: budgets met exactly or refused, orders as measured, both directions, tuples, states on the way."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fm.errors import SettingsError
from fm.paths import Path
from fm.solvers import SOLVERS, solve
from fm.solvers.field import Field
from fm.solvers.fixed import fixed, grid_for, steps
from tests.problems import ODES, PATHS, LinearField, by_kind, correlated_gaussian, randn

FIXED = [name for name, tableau in SOLVERS.items() if not tableau.error and not tableau.one_way]
every_method = pytest.mark.parametrize("method", FIXED)


@given(method=st.sampled_from(FIXED), nfe=st.integers(-3, 300), cost=st.integers(1, 3))
def test_a_budget_is_met_exactly_or_refused_with_the_nearest(method: str, nfe: int, cost: int) -> None:
    each = SOLVERS[method].stages * cost
    if nfe > 0 and nfe % each == 0:
        assert steps(method, nfe, cost) * each == nfe
        return
    with pytest.raises(SettingsError) as caught:
        steps(method, nfe, cost)
    offers = [int(word) for word in caught.value.mend.split() if word.isdigit()]
    assert offers
    assert all(steps(method, offer, cost) and abs(offer - nfe) <= max(each, each - nfe) for offer in offers)


@every_method
def test_calls_are_counted_exactly(method: str) -> None:
    calls = 0

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        assert t.shape == ()
        return -x

    solution = solve(velocity, randn(4, 3), method, nfe=12)
    assert solution.nfe == calls == 12
    assert solution.nfe_per_sample.tolist() == [12] * 4
    with pytest.raises(SettingsError, match="needs a number of evaluations"):
        solve(velocity, randn(4, 3), method)


@pytest.mark.parametrize("method", [name for name, tableau in SOLVERS.items() if not tableau.one_way])
@pytest.mark.parametrize("problem", ODES)
def test_measured_order(method: str, problem: str) -> None:
    """Of the adaptive method's tableau too, run on a grid."""
    ode, tableau = ODES[problem], SOLVERS[method]
    errors = []
    for count in (32, 64):
        field = Field(ode.slope, torch.ones(1, 1, dtype=torch.float64))
        y = fixed(field, tableau, [1.5 * i / count for i in range(count + 1)], ()).x
        errors.append(abs(y.item() - ode.solution(1.5)))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(tableau.order, abs=0.3)


@every_method
def test_there_and_back(method: str) -> None:
    x = randn(3, 2)
    field = LinearField(randn(2, 2, seed=1))
    forth = solve(field, x, method, nfe=400).x
    assert (forth - field.flow(x, 1.0)).abs().max() < 0.05
    back = solve(field, forth, method, nfe=400, t_span=(1.0, 0.0)).x
    torch.testing.assert_close(back, x, rtol=0, atol=0.05 if method == "euler" else 1e-4)


@every_method
def test_times_stay_inside_the_span(method: str) -> None:
    """Also in float32 at the end of a diffusion path: a velocity refused past t_max is never asked there."""
    for span in ((0.0, 1 - 1e-5), (1 - 1e-5, 0.0)):
        seen: list[Tensor] = []
        solve(lambda x, t, seen=seen: seen.append(t) or x, randn(1, 1).float(), method, nfe=36, t_span=span)
        assert min(seen) >= 0
        assert max(seen) <= torch.tensor(1 - 1e-5)
        assert seen[0] == torch.tensor(span[0])


class CostlyInTheMiddle:
    """Three network calls an evaluation for t in [0.4, 0.6], else one."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += int(self.network_calls(t))
        return -x

    def network_calls(self, t: Tensor) -> Tensor:
        return 1 + 2 * ((t >= 0.4) & (t <= 0.6)).long()


@every_method
@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0)])
def test_a_budget_is_met_where_calls_cost_more_at_some_times(method: str, span: tuple[float, float]) -> None:
    met = []
    for nfe in range(1, 60):
        velocity = CostlyInTheMiddle()
        try:
            solution = solve(velocity, randn(2, 2), method, nfe=nfe, t_span=span)
        except SettingsError as error:
            offers = [int(word) for word in error.mend.split() if word.isdigit()]
            assert nfe not in offers
            assert solve(CostlyInTheMiddle(), randn(2, 2), method, nfe=offers[0], t_span=span).nfe == offers[0]
            continue
        assert solution.nfe == velocity.calls == nfe
        met.append(nfe)
    assert len(met) > 5
    with pytest.raises(SettingsError, match="needs a number of evaluations"):
        grid_for(method, None, velocity, torch.float32, lambda count: [0.0, 1.0])


@every_method
def test_tuples_go_together(method: str) -> None:
    x, count = randn(3, 2), torch.zeros(3, dtype=torch.float64)
    field = LinearField(randn(2, 2, seed=1))
    solution = solve(lambda s, t: (field(s[0], t), s[0].sum(1) + s[1]), (x, count), method, nfe=8)
    torch.testing.assert_close(solution.x[0], solve(field, x, method, nfe=8).x)
    assert solution.x[1].shape == (3,)


@every_method
def test_states_on_the_way(method: str) -> None:
    x, at = randn(3, 2), (0.0, 0.13, 0.5, 1.0)
    field = LinearField(randn(2, 2, seed=1))
    solution = solve(field, x, method, nfe=200, at=at)
    assert solution.at[0].equal(x)
    assert solution.at[-1].equal(solution.x)
    for t, state in zip(at, solution.at, strict=True):
        torch.testing.assert_close(state, field.flow(x, t), rtol=0, atol=0.03 if method == "euler" else 1e-3)
    assert solution.nfe == 200
    with pytest.raises(SettingsError, match=r"at: time 1\.2 is outside the span"):
        solve(field, x, method, nfe=4, at=(1.2,))


@every_method
@pytest.mark.parametrize("path", PATHS, ids=by_kind)
def test_gaussian_transport(method: str, path: Path) -> None:
    """Steps on a schedule's whole range come to the exact transport as they get finer."""
    data = correlated_gaussian(path)
    x_0 = path.sample_source(randn(8, 3))
    end = 0.9 * path.t_max
    exact = data.transport(x_0, 0.0, end)
    errors = [
        (solve(data.velocity, x_0, method, nfe=nfe, t_span=(0.0, end)).x - exact).abs().max().item()
        for nfe in (80, 320)
    ]
    assert errors[1] < errors[0] / 3
    assert errors[1] < 0.2 * exact.abs().max()


def test_gradients_flow_through() -> None:
    a = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
    x = torch.ones(1, 1, dtype=torch.float64)
    y = solve(lambda x, t: a * x, x, "rk4", nfe=80).x
    (gradient,) = torch.autograd.grad(y.sum(), a)
    assert gradient.item() == pytest.approx(math.exp(-0.7), abs=1e-6)

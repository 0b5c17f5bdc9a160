"""dopri5: jointly it is torchdiffeq's to the evaluation; per sample every sample goes its own way."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchdiffeq
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from fm.errors import NumericalError, SettingsError
from fm.paths import Path
from fm.solvers import CONTROLS, SOLVERS, solve
from fm.solvers.adaptive import Adaptive
from fm.solvers.field import Field
from tests.problems import ODES, PATHS, LinearField, by_kind, correlated_gaussian, randn

every_control = pytest.mark.parametrize("control", CONTROLS)
SPANS = [(0.0, 1.0), (1.0, 0.0)]


class Counting:
    """A velocity that counts its calls."""

    def __init__(self, velocity: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.velocity, self.calls = velocity, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return self.velocity(x, t)


def rough_network(seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A random float32 network of points in six dimensions, more or less stiff."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(7, 32), nn.Tanh(), nn.Linear(32, 6)).requires_grad_(False)
    for weights in net.parameters():
        weights.copy_(torch.randn(weights.shape, generator=generator) * (1 + seed % 4) / 2)
    return lambda x, t: net(torch.cat([x, t.expand(len(x))[:, None]], 1))


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("seed", range(8))
def test_joint_control_is_torchdiffeqs(seed: int, span: tuple[float, float]) -> None:
    velocity, x = Counting(rough_network(seed)), randn(8, 6, seed=seed).float()
    for tolerance in (1e-3, 1e-5):
        velocity.calls = 0
        options = {"method": "dopri5", "rtol": tolerance, "atol": tolerance}
        expected = torchdiffeq.odeint(lambda t, x: velocity(x, t), x, torch.tensor(span), **options)[-1]
        calls, velocity.calls = velocity.calls, 0
        solution = solve(velocity, x, t_span=span, **options)
        assert solution.nfe == velocity.calls == calls
        torch.testing.assert_close(solution.x, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", PATHS, ids=by_kind)
def test_joint_control_is_torchdiffeqs_on_a_path(path: Path) -> None:
    data = correlated_gaussian(path)
    velocity = Counting(lambda x, t: data.velocity(x, t.clamp(max=path.t_max)))
    x_0 = path.sample_source(randn(6, 3))
    span = torch.tensor([0.0, 0.99], dtype=torch.float64)
    torchdiffeq.odeint(lambda t, x: velocity(x, t), x_0, span, method="dopri5", rtol=1e-5, atol=1e-5)
    calls = velocity.calls
    assert solve(velocity, x_0, t_span=(0.0, 0.99)).nfe == calls


def test_tuples_have_torchdiffeqs_norm() -> None:
    velocity, state = rough_network(3), (randn(5, 6).float(), torch.zeros(5))
    calls = 0

    def both(state: tuple[Tensor, Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        v = velocity(state[0], t)
        return v, 10 * v.square().sum(1)

    torchdiffeq.odeint(lambda t, s: both(s, t), state, torch.tensor([1.0, 0.0]), method="dopri5", rtol=1e-4, atol=1e-4)
    expected, calls = calls, 0
    assert solve(both, state, t_span=(1.0, 0.0), rtol=1e-4, atol=1e-4).nfe == calls == expected


@every_control
@pytest.mark.parametrize("problem", ODES)
def test_closed_forms(problem: str, control: str) -> None:
    ode, at = ODES[problem], [0.0, 0.4, 1.1, 1.5]
    y_0 = torch.ones(2, 1, dtype=torch.float64)
    solution = solve(
        lambda y, t: ode.slope(y, t.reshape(-1, 1)),
        y_0,
        t_span=(0.0, 1.5),
        at=at,
        rtol=1e-9,
        atol=1e-9,
        control=control,
    )
    assert solution.x[0].item() == pytest.approx(ode.solution(1.5), abs=1e-8)
    for t, y in zip(at, solution.at, strict=True):
        assert y[1].item() == pytest.approx(ode.solution(t), abs=1e-7)


@every_control
@pytest.mark.parametrize("path", PATHS, ids=by_kind)
def test_gaussian_transport_to_the_end_of_the_path(path: Path, control: str) -> None:
    """The velocity is refused past t_max and below 0: the last step is cut there."""
    data = correlated_gaussian(path)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return path.velocity_from_score(data.score(x, t), x, t)

    start = 1e-3
    x = data.transport(path.sample_source(randn(6, 3)), 0.0, start)
    forth = solve(velocity, x, t_span=(start, path.t_max), rtol=1e-8, atol=1e-8, control=control)
    torch.testing.assert_close(forth.x, data.transport(x, start, path.t_max), rtol=0, atol=2e-6)
    back = solve(velocity, forth.x, t_span=(path.t_max, start), rtol=1e-8, atol=1e-8, control=control)
    torch.testing.assert_close(back.x, x, rtol=0, atol=2e-6 * path.source_std)


def varied(x: Tensor, t: Tensor) -> Tensor:
    """Each sample turns at its own rate, which its third coordinate holds: no operation mixes samples."""
    rate = x[:, 2] * (1 + torch.cos(3 * t))
    return torch.stack([-rate * x[:, 1], rate * x[:, 0], torch.zeros_like(rate)], 1)


def varied_start(count: int) -> Tensor:
    x = randn(count, 3)
    x[:, 2] = torch.logspace(-1, 1.6, count)
    return x


def test_per_sample_does_not_depend_on_the_batch() -> None:
    """Permuted samples give permuted bits, and each alone gives the same."""
    x = varied_start(12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    whole = solve(varied, x, control="per_sample", at=(0.3,))
    mixed = solve(varied, x[order], control="per_sample", at=(0.3,))
    assert mixed.x.equal(whole.x[order])
    assert mixed.at[0].equal(whole.at[0][order])
    assert mixed.nfe_per_sample.equal(whole.nfe_per_sample[order])
    for i in (0, 7, 11):
        alone = solve(varied, x[i : i + 1], control="per_sample")
        assert alone.x.equal(whole.x[i : i + 1])
        assert alone.nfe == whole.nfe_per_sample[i]


def test_per_sample_against_scipy() -> None:
    x = varied_start(5)
    ours = solve(varied, x, control="per_sample", rtol=1e-9, atol=1e-9)
    assert ours.nfe == ours.nfe_per_sample.max()
    assert len(set(ours.nfe_per_sample.tolist())) > 2
    for i in range(5):

        def slope(t: float, y: np.ndarray) -> np.ndarray:
            return varied(torch.from_numpy(y)[None], torch.tensor([t], dtype=torch.float64))[0].numpy()

        theirs = solve_ivp(slope, (0, 1), x[i].numpy(), method="RK45", rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(ours.x[i], theirs.y[:, -1], atol=2e-7)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6])
def test_per_sample_takes_fewer_evaluations_for_the_same_error(tolerance: float) -> None:
    """At most 0.85 of the joint ones for an error, as 95 % quantile over samples, that is no larger."""
    x = varied_start(64)
    exact = solve(varied, x, rtol=1e-10, atol=1e-10, control="per_sample").x
    joint, own = (solve(varied, x, rtol=tolerance, atol=tolerance, control=control) for control in CONTROLS)
    assert own.nfe_per_sample.double().mean() < 0.85 * joint.nfe
    errors = [(solution.x - exact).norm(dim=1).quantile(0.95) for solution in (own, joint)]
    assert errors[0] <= errors[1]


class Refusals(Adaptive):
    """The stepper, counting the steps that it tried and refused."""

    tried = refused = 0

    def _growth(self, ratio: Tensor, good: Tensor) -> Tensor:
        self.tried, self.refused = self.tried + len(good), self.refused + int((~good).sum())
        return super()._growth(ratio, good)


@pytest.mark.parametrize("seed", [1, 3])
def test_per_sample_refuses_few_steps(seed: int) -> None:
    x = randn(32, 6, seed=seed).float()
    stepper = Refusals(Field(rough_network(seed), x), SOLVERS["dopri5"], (1e-5, 1e-5), (0.0, 1.0), (), True)
    assert stepper.run(10_000).stopped == ""
    assert stepper.refused < 0.05 * stepper.tried


@every_control
def test_a_cap_returns_the_state_reached_and_says_so(control: str) -> None:
    field = LinearField(torch.tensor([[0.0, -50.0], [50.0, 0.0]], dtype=torch.float64))
    x = randn(3, 2)
    solution = solve(field, x, rtol=1e-8, atol=1e-8, max_nfe=100, control=control)
    assert solution.nfe <= 100
    assert 0 < solution.t < 1
    assert solution.stopped.startswith("the cap of 100 evaluations was met at t = 0.")
    if control == "joint":
        torch.testing.assert_close(solution.x, field.flow(x, solution.t), rtol=0, atol=1e-5)
    assert solve(field, x, rtol=1e-3, atol=1e-3, control=control).stopped == ""


@every_control
def test_a_vanishing_step_is_named(control: str) -> None:
    """y' = y^2 from 2 blows up at t = 1/2; the other sample is harmless."""
    x = torch.tensor([[0.1], [2.0]], dtype=torch.float64)
    pattern = r"the (step size vanished|velocity is not finite) at t = 0\.(5|49999)"
    with pytest.raises(NumericalError, match=pattern) as caught:
        solve(lambda x, t: x**2, x, control=control)
    assert control == "joint" or caught.value.where == "sample 1"


@every_control
def test_an_empty_span_costs_nothing(control: str) -> None:
    x = randn(2, 2)
    solution = solve(lambda x, t: x, x, t_span=(0.3, 0.3), at=(0.3,), control=control)
    assert solution.nfe == 0
    assert solution.x.equal(x)
    assert solution.at[0].equal(x)


@every_control
def test_gradients_flow_through(control: str) -> None:
    a = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
    x = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    y = solve(lambda x, t: a * x, x, control=control, rtol=1e-8, atol=1e-8).x
    by_a, by_x = torch.autograd.grad(y[0].sum(), [a, x])
    assert by_a.item() == pytest.approx(math.exp(-0.7), abs=1e-6)
    assert by_x[:, 0].tolist() == pytest.approx([math.exp(-0.7), 0.0], abs=1e-6)


def test_options_that_do_not_fit_are_refused() -> None:
    x = randn(2, 2)
    with pytest.raises(SettingsError, match="dopri5 chooses its own number of evaluations"):
        solve(lambda x, t: x, x, nfe=12)
    with pytest.raises(SettingsError, match="unknown control 'per_sampel'; did you mean 'per_sample'"):
        solve(lambda x, t: x, x, control="per_sampel")
    with pytest.raises(SettingsError, match=r"tolerances 0\.0 and 0\.0"):
        solve(lambda x, t: x, x, rtol=0.0, atol=0.0)
    with pytest.raises(SettingsError, match="unknown solver 'dopri'; did you mean 'dopri5'"):
        solve(lambda x, t: x, x, "dopri")


@pytest.mark.parametrize("control", ["joint", "per_sample"])
def test_a_stopped_solve_has_no_numbers_for_times_it_did_not_reach(control: str) -> None:
    x_0 = randn(3, 2)
    found = solve(lambda x, t: -30 * x, x_0, rtol=1e-8, atol=1e-8, at=(0.0, 0.001, 0.9), max_nfe=60, control=control)
    assert found.stopped and 0.001 < found.t < 0.9
    assert torch.equal(found.at[0], x_0)
    assert torch.allclose(found.at[1], x_0 * math.exp(-0.03), atol=1e-6)
    assert found.at[2].isnan().all() and found.x.isfinite().all()


def test_the_cap_holds_where_evaluations_grow_dearer() -> None:
    class Dear:
        def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return torch.cos(9 * t) * x

        def network_calls(self, t: torch.Tensor) -> torch.Tensor:
            return torch.where((t > 0.3) & (t < 0.6), 2, 1)

    for cap in range(8, 200, 7):
        assert solve(Dear(), randn(2, 2), max_nfe=cap, rtol=1e-7, atol=1e-7).nfe <= cap
    with pytest.raises(SettingsError, match="give 8 or more"):
        solve(Dear(), randn(2, 2), max_nfe=7)

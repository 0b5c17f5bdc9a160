"""Objectives: exact minimisers give the path's velocity and the least loss; labels and guidance reach the network."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fm.errors import NumericalError, SettingsError, ValueUserError
from fm.objectives import (
    NO_LABEL,
    OBJECTIVES,
    FlowMatching,
    NoiseMatching,
    Regression,
    ScoreFlow,
    ScoreMatching,
    drop_labels,
)
from fm.paths import OTPath, Path, PathSample, VPPath
from fm.solvers import solve
from tests.problems import PATHS, FiniteData, GaussianData, by_kind, correlated_gaussian, randn, times_inside

every_path = pytest.mark.parametrize("path", PATHS, ids=by_kind)
BLIND = {"regression"}  # to states, so that it minimises something else
every_objective = pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in BLIND])


def minimiser(name: str, data: GaussianData) -> Callable[[Tensor, Tensor], Tensor]:
    """The network that the objective should end at, for Gaussian data."""
    if name == "flow_matching":
        return data.velocity
    return data.score if name.endswith("raw") else data.noise


@every_path
@every_objective
def test_the_exact_minimiser_gives_the_marginal_velocity(name: str, path: Path) -> None:
    data = correlated_gaussian(path)
    t = times_inside(path, 12)
    x = data.marginal(t)[0] + randn(12, 3)
    velocity = OBJECTIVES[name](path).velocity(minimiser(name, data))
    torch.testing.assert_close(velocity(x, t), data.velocity(x, t), rtol=1e-8, atol=1e-8)
    one = torch.tensor(0.4, dtype=torch.float64)
    torch.testing.assert_close(velocity(x, one), data.velocity(x, one), rtol=1e-8, atol=1e-8)


@every_path
@every_objective
def test_the_exact_minimiser_has_the_least_mean_loss(name: str, path: Path) -> None:
    """Below each of 100 perturbed ones, on the same draws."""
    data = correlated_gaussian(path)
    count = 2000
    z = randn(count, 3, seed=1)
    x_1 = data.mean + randn(count, 3, seed=2) @ torch.linalg.cholesky(data.cov).T
    t = 0.05 + 0.9 * torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    objective = OBJECTIVES[name](path)
    x_t = path.sample(z, x_1, t).x_t
    best = minimiser(name, data)(x_t, t)

    def mean_loss(out: Tensor) -> float:
        return objective.loss(lambda x, t: out, x_1, t=t, z=z).mean().item()

    least = mean_loss(best)
    for seed in range(100):
        off = torch.tanh(x_t @ randn(3, 3, seed=seed)) + randn(3, seed=seed + 1000)
        assert least < mean_loss(best + 0.3 * best.std() * off)


@every_path
@every_objective
@pytest.mark.parametrize("time", [0.1, 0.6, 0.9])
def test_conditional_and_marginal_gradients_are_equal(name: str, path: Path, time: float) -> None:
    """Theorem 2 exactly: at fixed (x, t), for any output, the posterior-weighted gradient is the marginal loss's."""
    data, t = FiniteData(path, randn(4, 2, seed=5)), torch.tensor(time, dtype=torch.float64)
    s = path.schedule(t)
    x, out = s.a * data.points[:1] + s.sigma * randn(1, 2, seed=6), randn(1, 2, seed=7).requires_grad_()
    z = (x - s.a * data.points) / s.sigma
    objective = OBJECTIVES[name](path)
    loss = objective.loss(lambda x, t: out.expand(4, 2), data.points, t=t.expand(4), z=z)
    weights = data.posterior(x, t)
    (conditional,) = torch.autograd.grad((weights[0] * loss).sum(), out)

    velocity = data.mean_of(lambda x, x_1: path.conditional_velocity(x, x_1, t), x, t)
    means = PathSample(x, velocity, weights @ z, weights @ data.points, t)
    (marginal,) = torch.autograd.grad(objective.residual(out, means).square().mean(), out)
    torch.testing.assert_close(conditional, marginal, rtol=1e-9, atol=1e-10)


def test_losses_are_those_of_the_paper() -> None:
    path = VPPath()
    z, x_1, t = randn(5, 2, 3, 3), randn(5, 2, 3, 3, seed=1), times_inside(path, 5)
    out = randn(5, 2, 3, 3, seed=2)
    sigma = path.schedule(t).sigma
    beta = 0.1 + (1 - t) * 19.9

    def mean(error: Tensor) -> Tensor:
        return error.square().flatten(1).mean(1)

    column = sigma.reshape(-1, 1, 1, 1)
    raw, scaled = mean(out + z / column), mean(-out / column + z / column)
    expected = {
        FlowMatching(path): mean(out - path.sample(z, x_1, t).u_t),
        NoiseMatching(path): mean(out - z),
        ScoreMatching(path, output="raw"): sigma**2 * raw,
        ScoreMatching(path, output="scaled"): mean(out - z),
        ScoreFlow(path, output="raw"): beta * raw,
        ScoreFlow(path, output="scaled"): beta * scaled,
    }
    for objective, loss in expected.items():
        torch.testing.assert_close(objective.loss(lambda x, t: out, x_1, t=t, z=z), loss, rtol=1e-9, atol=0)


def network(x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
    """Answers the label (0 where there is none) plus t."""
    assert t.shape == (len(x),)
    label = torch.zeros(len(x)) if y is None else torch.where(y == NO_LABEL, 0, y)
    return torch.zeros_like(x[:, :2]) + (label + t).to(x)[:, None]


def test_guidance_convention() -> None:
    x, t, y = randn(3, 2), torch.tensor(0.5), torch.tensor([1, 2, 3])
    objective = FlowMatching(OTPath())
    assert objective.velocity(network, y=y)(x, t)[:, 0].tolist() == [1.5, 2.5, 3.5]
    assert objective.velocity(network, y=y, guidance=1.0)(x, t)[:, 0].tolist() == [2.5, 4.5, 6.5]
    assert objective.velocity(network)(x, t)[:, 0].tolist() == [0.5, 0.5, 0.5]
    with pytest.raises(SettingsError, match=r"guidance 1\.0 without a label"):
        objective.velocity(network, guidance=1.0)


def test_autoguidance_and_its_interval() -> None:
    x, t, y = randn(3, 2), torch.tensor([0.2, 0.5, 0.9]), torch.tensor([1, 2, 3])
    objective = FlowMatching(OTPath())

    def weaker(x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return network(x, t, y) / 2

    guided = objective.velocity(network, y=y, guidance=1.0, guide=weaker, interval=(0.3, 0.6))
    assert guided(x, t)[:, 0].tolist() == pytest.approx([1.2, 2.5 * 1.5, 3.9])
    assert guided.network_calls(t).tolist() == [1, 2, 1]
    without_labels = objective.velocity(network, guidance=1.0, guide=weaker)
    assert without_labels(x, t)[:, 0].tolist() == pytest.approx([0.3, 0.75, 1.35])
    with pytest.raises(SettingsError, match="no part of the times"):
        objective.velocity(network, y=y, guidance=1.0, interval=(0.6, 0.3))


@pytest.mark.parametrize("options", [{"method": "heun", "nfe": 22}, {"control": "per_sample"}, {"control": "joint"}])
def test_nfe_inside_an_interval(options: dict) -> None:
    """Every row of every network call is counted once, also where samples stand at different times."""
    rows = 0

    def counting(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        nonlocal rows
        rows += len(x)
        return torch.sin(y[:, None] * t[:, None]) * x

    y = torch.tensor([1, 30, 60])
    velocity = FlowMatching(OTPath()).velocity(counting, y=y, guidance=0.5, interval=(0.25, 0.75))
    solution = solve(velocity, randn(3, 2), **options)
    assert solution.nfe_per_sample.sum() == rows
    assert options.get("nfe", solution.nfe) == solution.nfe


@every_objective
def test_guiding_outputs_is_guiding_velocities(name: str) -> None:
    objective = OBJECTIVES[name](VPPath())
    x, t, y = randn(3, 2), torch.tensor(0.5, dtype=torch.float64), torch.tensor([1, 2, 3])
    cond = objective.velocity(network, y=y)(x, t)
    free = objective.velocity(network, y=torch.full((3,), NO_LABEL))(x, t)
    guided = objective.velocity(network, y=y, guidance=0.7)(x, t)
    torch.testing.assert_close(guided, free + 1.7 * (cond - free))


@pytest.mark.parametrize("guidance", [0.0, 0.5])
def test_nfe_counts_every_network_call(guidance: float) -> None:
    calls = 0

    def counting(x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        nonlocal calls
        calls += 1
        return network(x, t, y)

    velocity = FlowMatching(OTPath()).velocity(counting, y=torch.tensor([1, 2]), guidance=guidance)
    assert solve(velocity, randn(2, 2), "midpoint", nfe=8).nfe == calls == 8
    calls = 0
    assert solve(velocity, randn(2, 2), rtol=1e-3, atol=1e-3).nfe == calls
    if guidance:
        with pytest.raises(SettingsError, match=r"midpoint makes 4 network calls a step and cannot make 6; .* 4 or 8"):
            solve(velocity, randn(2, 2), "midpoint", nfe=6)


def test_labels_stay_with_their_samples_under_per_sample_control() -> None:
    x, y = randn(4, 2), torch.tensor([1, 40, 3, 90])

    def spinning(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return torch.sin(y[:, None] * t[:, None]) * x

    velocity = FlowMatching(OTPath()).velocity(spinning, y=y)
    solution = solve(velocity, x, control="per_sample", rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(solution.x, x * ((1 - y.cos()) / y).exp()[:, None], rtol=1e-6, atol=0)
    assert len(set(solution.nfe_per_sample.tolist())) > 1


def test_conditions_stand_beside_the_state() -> None:
    seen: list[Tensor] = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x)
        return x[:, :3]

    x, cond, t = randn(2, 3, 4, 4), randn(2, 1, 4, 4), torch.full((2,), 0.5)
    objective = FlowMatching(OTPath())
    assert objective.loss(network, x, t=t, z=x, cond=cond).shape == (2,)
    objective.velocity(network, cond=cond)(x, t)
    assert all(given.shape == (2, 4, 4, 4) and given[:, 3:].equal(cond) for given in seen)


def test_dropped_labels_follow_u() -> None:
    y, u = torch.tensor([3, 4, 5]), torch.tensor([0.05, 0.2, 0.09])
    assert drop_labels(y, u, 0.1).tolist() == [NO_LABEL, 4, NO_LABEL]
    assert drop_labels(y, u, 0.0).equal(y)


def test_bad_input_is_named() -> None:
    x, t = randn(2, 2), torch.full((2,), 0.5)
    objective = FlowMatching(OTPath())
    with pytest.raises(ValueUserError, match=r"the network answers shape \(2, 1\) to \(2, 2\)"):
        objective.loss(lambda x, t: x[:, :1], x, t=t, z=x)
    with pytest.raises(ValueUserError, match="3 labels given for 2 samples"):
        objective.loss(network, x, t=t, z=x, y=torch.zeros(3))
    with pytest.raises(ValueUserError, match="floats are due"):
        objective.loss(network, x.to(torch.uint8), t=t, z=x)
    with pytest.raises(SettingsError, match=r"unknown score output 'row'"):
        ScoreMatching(VPPath(), output="row")  # type: ignore[arg-type]
    with pytest.raises(NumericalError, match="singular"):
        NoiseMatching(OTPath()).velocity(lambda x, t: x)(x, torch.zeros(2))


@pytest.mark.parametrize("solver", [{"method": "euler", "nfe": 1}, {"method": "rk4", "nfe": 8}], ids=["one", "many"])
def test_regression_answers_with_its_one_prediction_whatever_the_noise_and_the_solver(
    solver: dict[str, object],
) -> None:
    cond, objective = randn(5, 3, seed=4), Regression(OTPath())

    def network(given: Tensor, t: Tensor) -> Tensor:
        assert not given[:, :3].any() and not t.any()  # neither state nor time
        return 2 * given[:, 3:]

    velocity = objective.velocity(network, cond=cond)
    ends = [solve(velocity, randn(5, 3, seed=seed), **solver).x for seed in (0, 1)]  # type: ignore[arg-type]
    for end in ends:
        torch.testing.assert_close(end, 2 * cond, rtol=0, atol=4e-4)  # sigma_min of the noise is left
    z, t = randn(5, 3, seed=1), torch.full((5,), 0.5, dtype=torch.float64)
    loss = objective.loss(network, cond, t=t, z=z, cond=cond)
    torch.testing.assert_close(loss, cond.square().mean(1))

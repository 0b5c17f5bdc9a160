"""Objectives: exact minimisers give the path's velocity and the least loss; labels and guidance reach the network."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fm.errors import NumericalError, SettingsError, ValueUserError
from fm.models import MLP, UNet
from fm.objectives import (
    NO_LABEL,
    OBJECTIVES,
    FlowMatching,
    MeanFlow,
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
JUMPING = [name for name, kind in OBJECTIVES.items() if kind(OTPath()).jumps]
every_objective = pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in BLIND])


def minimiser(name: str, data: GaussianData) -> Callable[[Tensor, Tensor], Tensor]:
    """The network that the objective should end at, for Gaussian data."""
    if name in ("flow_matching", *JUMPING):
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
@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in {*BLIND, "mean_flow"}])  # weighted
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


@dataclass(frozen=True)
class Exact:
    """The mean velocity of Gaussian data as a network, (x, t, h)."""

    data: GaussianData

    def __call__(self, x: Tensor, t: Tensor, y: None = None, h: Tensor | None = None) -> Tensor:
        left = torch.zeros_like(t) if h is None else h
        if not left.any():
            return self.data.velocity(x, t)
        return (self.data.transport(x, t, t + left) - x) / left[:, None]


@every_path
@pytest.mark.parametrize("name", JUMPING)
def test_the_exact_mean_velocity_is_its_own_target_and_jumps_in_any_number_of_steps(name: str, path: Path) -> None:
    data = correlated_gaussian(path)
    exact, objective = Exact(data), OBJECTIVES[name](path)
    t = times_inside(path, 12)
    s = t + 0.3 * (path.t_max - t)
    x = data.marginal(t)[0] + randn(12, 3)
    target = objective.target(exact_of(exact), x, t, s, data.velocity(x, t))
    torch.testing.assert_close(target, exact(x, t, h=s - t), rtol=1e-8, atol=1e-8)

    velocity, x_0 = objective.velocity(exact), path.sample_source(randn(6, 3))
    for nfe in (1, 2, 4):
        found = solve(velocity, x_0, "jump", nfe=nfe, t_span=(0.0, 0.9))
        assert found.nfe == nfe
        torch.testing.assert_close(found.x, data.transport(x_0, 0.0, 0.9), rtol=1e-9, atol=1e-9)


def exact_of(exact: Exact) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda x, t, h: exact(x, t, None, h)


@pytest.mark.parametrize("name", JUMPING)
def test_samples_that_do_not_jump_learn_the_velocity_and_the_others_get_no_gradient_by_their_target(name: str) -> None:
    objective, net = OBJECTIVES[name](OTPath()), MLP(2, 16, 2, jumps=True).double()
    z, x_1 = randn(4, 2), randn(4, 2, seed=1)
    t = torch.tensor([0.1, 0.3, 0.5, 0.7], dtype=torch.float64)
    s = torch.tensor([0.1, 0.9, 0.5, 0.8], dtype=torch.float64)
    loss, plain = objective.loss(net, x_1, t=t, z=z, s=s), FlowMatching(OTPath()).loss(net, x_1, t=t, z=z)
    still = s == t
    torch.testing.assert_close(loss[still], plain[still])
    assert not torch.isclose(loss[~still], plain[~still]).any()

    sample = OTPath().sample(z, x_1, t)
    out = net(sample.x_t, t, h=s - t)
    with torch.no_grad():
        target = objective.target(lambda x, t, h: net(x, t, None, h), sample.x_t, t, s, sample.u_t)
    assert not target.requires_grad
    target = torch.where(still[:, None], sample.u_t, target)
    by_hand = (out - target).square().mean(1)
    torch.testing.assert_close(loss, by_hand)
    if isinstance(objective, MeanFlow):
        by_hand = by_hand / (by_hand.detach() + 1e-3).sqrt()
    gradients = [torch.autograd.grad(one.sum(), list(net.parameters()), retain_graph=True) for one in (loss, by_hand)]
    for mine, due in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, due)


def test_the_derivative_is_that_of_the_whole_network_through_its_attention() -> None:
    net = UNet(16, 32, (1, 1), 1, (8,), 16, classes=2, jumps=True).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x, u, y = randn(2, 3, 16, 16), randn(2, 3, 16, 16, seed=1), torch.tensor([0, 1])
    t, s, eps = torch.tensor([0.2, 0.5]).double(), torch.tensor([0.9, 0.6]).double(), 1e-5
    with torch.no_grad():
        target = MeanFlow(OTPath()).target(lambda x, t, h: net(x, t, y, h), x, t, s, u)
        there, back = (net(x + e * u, t + e, y, s - t - e) for e in (eps, -eps))
    slope = (there - back) / (2 * eps)
    torch.testing.assert_close(target, u + (s - t).view(2, 1, 1, 1) * slope, rtol=0, atol=1e-8)
    assert slope.abs().max() > 0.01


@pytest.mark.parametrize("name", JUMPING)
def test_gradients_in_bf16_are_near_those_in_float32(name: str) -> None:
    torch.manual_seed(0)
    objective, net = OBJECTIVES[name](OTPath()), UNet(16, 32, (1, 1), 1, (8,), 16, jumps=True)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    z, x_1 = torch.randn(2, 8, 3, 16, 16)
    t, s = torch.rand(2, 8).sort(0).values
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = objective.loss(net, x_1, t=t, z=z, s=s).mean()
        found.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, [*net.parameters()])]))
    assert 0 < float((found[1] - found[0]).norm() / found[0].norm()) < 0.2


@pytest.mark.parametrize("name", JUMPING)
def test_one_jump_of_a_trained_network_lands_where_one_step_of_euler_does_not(name: str) -> None:
    """Eight points in a ring: a step of Euler leads all to their mean."""
    torch.manual_seed(0)
    angles = torch.arange(8) * torch.pi / 4
    ring, net = 2 * torch.stack([angles.cos(), angles.sin()], 1), MLP(2, 64, 3, jumps=True)
    objective = OBJECTIVES[name](OTPath())
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(300):
        x_1, z, u = ring[torch.randint(8, (128,))], torch.randn(128, 2), torch.rand(2, 128)
        u[1] = torch.where(torch.rand(128) < objective.share, u[1], u[0])
        loss = objective.loss(net, x_1, t=u.amin(0), z=z, s=u.amax(0)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    velocity, x_0 = objective.velocity(net.requires_grad_(False)), torch.randn(1000, 2)
    radius = {method: solve(velocity, x_0, method, nfe=1).x.norm(dim=1).median() for method in ("jump", "euler")}
    assert abs(radius["jump"] - 2) < 0.5 and radius["euler"] < 1

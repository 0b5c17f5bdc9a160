"""Paths against closed forms in float64, over every member of the family."""

import math
from functools import partial

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from fm.errors import NumericalError, ValueUserError
from fm.paths import OTPath, Path, VEPath, VPPath
from tests.problems import (
    PATHS,
    FiniteData,
    by_kind,
    correlated_gaussian,
    derivative,
    normal_log_density,
    randn,
    times_inside,
)

every_path = pytest.mark.parametrize("path", PATHS, ids=by_kind)


def batch(path: Path, count: int = 9, dims: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    return randn(count, dims, seed=1), randn(count, dims, seed=2), times_inside(path, count)


@every_path
def test_conditional_velocity_is_the_time_derivative_of_the_flow(path: Path) -> None:
    z, x_1, t = batch(path)
    slopes = torch.stack([derivative(lambda t, i=i: path.sample(z, x_1, t).x_t[:, i], t) for i in range(3)], 1)
    sample = path.sample(z, x_1, t)
    torch.testing.assert_close(sample.u_t, slopes, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(path.conditional_velocity(sample.x_t, x_1, t), sample.u_t, rtol=1e-8, atol=1e-8)


@every_path
def test_sample_has_the_mean_and_spread_of_the_path(path: Path) -> None:
    z, x_1, t = batch(path)
    mean, std = path.mean_std(x_1, t)
    torch.testing.assert_close(mean + std * z, path.sample(z, x_1, t).x_t, rtol=0, atol=0)


@every_path
def test_the_ratio_is_a_dot_over_a(path: Path) -> None:
    s = path.schedule(times_inside(path, 50))
    torch.testing.assert_close(s.a_ratio, s.a_dot / s.a, rtol=1e-13, atol=0)


def test_schedules_are_the_papers() -> None:
    t = torch.tensor([0.3], dtype=torch.float64)
    ot, vp, ve = (p.schedule(t) for p in (OTPath(sigma_min=0.1), VPPath(), VEPath()))
    assert (ot.a.item(), ot.sigma.item()) == pytest.approx((0.3, 1 - 0.9 * 0.3))
    growth = 0.1 * 0.7 + 0.5 * 0.7**2 * 19.9
    assert (vp.a.item(), vp.sigma.item()) == pytest.approx((math.exp(-growth / 2), math.sqrt(1 - math.exp(-growth))))
    assert (ve.a.item(), ve.sigma.item()) == pytest.approx((1.0, 0.01 * math.sqrt(5000**1.4 - 1)))


@every_path
def test_gaussian_data_conversions_agree_with_its_marginals(path: Path) -> None:
    data = correlated_gaussian(path)
    _, x, t = batch(path)
    velocity, score, noise = data.velocity(x, t), data.score(x, t), data.noise(x, t)
    close = {"rtol": 1e-7, "atol": 1e-7}
    torch.testing.assert_close(path.velocity_from_score(score, x, t), velocity, **close)
    torch.testing.assert_close(path.velocity_from_noise(noise, x, t), velocity, **close)
    torch.testing.assert_close(path.score_from_velocity(velocity, x, t), score, **close)
    torch.testing.assert_close(path.noise_from_velocity(velocity, x, t), noise, **close)
    torch.testing.assert_close(path.score_from_noise(noise, t), score, **close)
    torch.testing.assert_close(path.noise_from_score(score, t), noise, **close)
    data_mean = path.data_from_velocity(velocity, x, t)
    torch.testing.assert_close(path.velocity_from_data(data_mean, x, t), velocity, **close)


@every_path
def test_posterior_means_of_conditional_velocities_and_scores_are_the_marginal_ones(path: Path) -> None:
    """Theorem 1, and the score likewise, exactly: a finite data set at fixed (x, t)."""
    data = FiniteData(path, randn(5, 2, seed=5))
    for t in (0.2, 0.6, 0.9):
        x = randn(4, 2, seed=6) * (1 + path.mean_std(randn(1, 2), torch.tensor([t]))[1].item())
        at = torch.tensor(t, dtype=torch.float64)
        velocity = data.mean_of(lambda x, x_1, at=at: path.conditional_velocity(x, x_1, at), x, t)
        score = derivative(lambda x, t=t: data.log_density(x, t), x)
        torch.testing.assert_close(path.velocity_from_score(score, x, at), velocity, rtol=1e-9, atol=1e-9)


@every_path
@pytest.mark.parametrize("time", [0.1, 0.4, 0.7, 0.95])
def test_continuity_equation(path: Path, time: float) -> None:
    """d/dt log p + div v + <v, score> = 0 for the marginals of a finite data set."""
    data = FiniteData(path, randn(4, 2, seed=7))
    t = torch.tensor(time, dtype=torch.float64)
    x = data.points[:1] + path.schedule(t).sigma * randn(1, 2, seed=8)

    def velocity(x: Tensor) -> Tensor:
        return data.mean_of(lambda x, x_1: path.conditional_velocity(x, x_1, t), x, t)

    slope = derivative(lambda t: data.log_density(x, t), t)
    score = derivative(lambda x: data.log_density(x, t), x)
    divergence = sum(derivative(lambda x, i=i: velocity(x)[:, i], x)[0, i] for i in (0, 1))
    terms = slope, divergence, (velocity(x) * score).sum()
    assert sum(terms).abs().item() < 1e-9 * max(1.0, *(term.abs().item() for term in terms))


@every_path
def test_source(path: Path) -> None:
    z = randn(6, 3)
    x_0 = path.sample_source(z)
    cov = path.source_std**2 * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(path.log_source(x_0), normal_log_density(x_0, torch.zeros(3).double(), cov))
    start = path.schedule(torch.zeros(1, dtype=torch.float64))
    assert path.source_std == pytest.approx(start.sigma.item(), rel=3e-5)  # VP's is N(0, I) by convention
    torch.testing.assert_close(path.log_source(x_0.reshape(6, 3, 1, 1)), path.log_source(x_0))


@every_path
def test_float32_agrees_with_float64_up_to_the_end(path: Path) -> None:
    near_end = path.t_max - torch.logspace(-6, -1, 2000)
    t = torch.cat([torch.linspace(0, path.t_max, 4001), near_end, torch.tensor([path.t_max])])
    single, double = path.schedule(t), path.schedule(t.double())
    for name, a, b in zip(single._fields, single, double, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=2e-6, atol=1e-30 if name != "a" else 1e-7, msg=name)


def conversions(path: Path, x: Tensor, y: Tensor, t: Tensor) -> dict[str, Tensor | None]:
    """All that follows from a state x and a prediction y at t by name; None where it is refused as singular."""
    calls = {name: partial(getattr(path, name), y, x, t) for name in dir(path) if "_from_" in name}
    calls |= {name: partial(getattr(path, name), y, t) for name in ("score_from_noise", "noise_from_score")}
    calls["conditional_velocity"] = partial(path.conditional_velocity, x, y, t)
    found: dict[str, Tensor | None] = {}
    for name, call in calls.items():
        try:
            found[name] = call()
        except NumericalError as error:
            assert "singular" in str(error)
            found[name] = None
    assert len(found) == 9
    return found


@every_path
def test_ends_are_finite_or_refused(path: Path) -> None:
    x = randn(2, 3).float()
    for t in (torch.zeros(2), torch.full((2,), path.t_max)):
        refused = [name for name, value in conversions(path, x, x, t).items() if value is None]
        assert set(refused) <= {"velocity_from_noise", "velocity_from_score"}
        assert all(value.isfinite().all() for value in conversions(path, x, x, t).values() if value is not None)
        assert all(part.isfinite().all() for part in path.sample(x, x, t))


@every_path
def test_conversions_in_float32_agree_with_float64_up_to_the_end(path: Path) -> None:
    """To 1e-5 of the terms that each sums up: whatever cancels there is in the formula, not in the arithmetic."""
    t = torch.cat([torch.linspace(0.01, path.t_max, 2001), path.t_max - torch.logspace(-6, -2, 500)])
    x, y = randn(len(t), 2, seed=1).float(), randn(len(t), 2, seed=2).float()
    single = conversions(path, x, y, t)
    double = conversions(path, x.double(), y.double(), t.double())
    # Each is linear in x and in y, so its terms are what remains when one of them is zero.
    terms = [conversions(path, x.double() * p, y.double() * (1 - p), t.double()) for p in (0, 1)]
    for name, value in single.items():
        scale = sum(part[name].abs() for part in terms)
        assert ((value.double() - double[name]).abs() / scale).max() < 1e-5, name


def test_singular_ends_are_named() -> None:
    x = randn(2, 3)
    with pytest.raises(NumericalError, match=r"sample 1: t = 0 on the ot path: this conversion is singular there"):
        OTPath().velocity_from_noise(x, x, torch.tensor([0.5, 0.0]))
    with pytest.raises(NumericalError, match=r"sample 0: t = 1 on the ot path"):
        OTPath(sigma_min=0).score_from_velocity(x, x, torch.tensor(1.0))
    assert OTPath().score_from_velocity(x, x, torch.tensor(0.0)).equal(-x)


@every_path
@pytest.mark.parametrize("t", [-1e-6, 1 + 1e-6, math.nan])
def test_times_outside_the_range_are_named(path: Path, t: float) -> None:
    x = randn(3, 2)
    with pytest.raises(NumericalError, match=r"sample 2: t = .* outside"):
        path.sample(x, x, torch.tensor([0.1, 0.2, t], dtype=torch.float64))


@every_path
def test_bad_input_is_named(path: Path) -> None:
    x, t = randn(3, 2), torch.full((3,), 0.5)
    with pytest.raises(ValueUserError, match=r"shapes \(3, 2\) and \(2, 2\)"):
        path.sample(x[:2], x, t)
    with pytest.raises(ValueUserError, match=r"t of shape \(2,\)"):
        path.sample(x, x, t[:2])
    with pytest.raises(ValueUserError, match="floats are due"):
        path.sample(x, torch.zeros(3, 2, dtype=torch.uint8), t)
    with pytest.raises(ValueUserError, match="keep t in float32"):
        path.sample(x, x, t.bfloat16())


def test_settings_are_checked() -> None:
    for make in (lambda: OTPath(sigma_min=1.0), lambda: VEPath(sigma_min=0.5, sigma_max=0.5), lambda: VPPath(beta=1)):
        with pytest.raises(ValidationError):
            make()  # type: ignore[no-untyped-call]

"""Reference problems with exact answers, in float64: Gaussian data, a finite data set, linear fields, and two ODEs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import torch
from torch import Tensor

from fm.paths import AnyPath, Path, Schedule
from fm.times import AnyTimes, Times

PATHS: list[Path] = [member() for member in get_args(get_args(AnyPath)[0])]
LAWS: list[Times] = [member() for member in get_args(get_args(AnyTimes)[0])]


def by_kind(member: Path | Times) -> str:
    return member.kind


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def times_inside(path: Path, count: int) -> Tensor:
    """Times strictly inside (0, t_max), both ends nearly reached."""
    inner = torch.linspace(0.02, 0.98, count - 2, dtype=torch.float64)
    return torch.cat([torch.tensor([1e-3]), inner, torch.tensor([path.t_max - 1e-4])]).double()


def derivative(fn: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Gradient of the sum of fn."""
    at = at.detach().requires_grad_()
    return torch.autograd.grad(fn(at).sum(), at)[0]


def normal_log_density(x: Tensor, mean: Tensor, cov: Tensor) -> Tensor:
    return torch.distributions.MultivariateNormal(mean, covariance_matrix=cov).log_prob(x)


@dataclass(frozen=True)
class GaussianData:
    """Data N(mean, cov) in D dimensions on a path: everything about its marginals in closed form."""

    path: Path
    mean: Tensor
    cov: Tensor

    def _schedule(self, t: Tensor | float) -> Schedule:
        return Schedule(*[v.reshape(-1, 1) for v in self.path.schedule(torch.as_tensor(t, dtype=torch.float64))])

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor]:
        return torch.linalg.eigh(self.cov)

    def marginal(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean (times, D) and covariance (times, D, D) of p_t."""
        s = self._schedule(t)
        eye = torch.eye(len(self.mean), dtype=torch.float64)
        return s.a * self.mean, s.a[..., None] ** 2 * self.cov + s.sigma[..., None] ** 2 * eye

    def score(self, x: Tensor, t: Tensor | float) -> Tensor:
        s, (values, vectors) = self._schedule(t), self._spectrum
        return -((x - s.a * self.mean) @ vectors / (s.a**2 * values + s.sigma**2)) @ vectors.T

    def noise(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Posterior mean of z."""
        return -self._schedule(t).sigma * self.score(x, t)

    def velocity(self, x: Tensor, t: Tensor | float) -> Tensor:
        """E[u_t | x_t = x]: regression of a_dot x_1 + sigma_dot z on a x_1 + sigma z."""
        s, (values, vectors) = self._schedule(t), self._spectrum
        slope = (s.a * s.a_dot * values + s.sigma * s.sigma_dot) / (s.a**2 * values + s.sigma**2)
        return s.a_dot * self.mean + ((x - s.a * self.mean) @ vectors * slope) @ vectors.T

    def transport(self, x: Tensor, t_0: float, t_1: float) -> Tensor:
        """Where the marginal velocity takes x from t_0 to t_1: along each eigenvector spreads scale."""
        values, vectors = self._spectrum
        s_0, s_1 = self._schedule(t_0), self._schedule(t_1)
        spread_0, spread_1 = ((s.a**2 * values + s.sigma**2).sqrt() for s in (s_0, s_1))
        offset = (x - s_0.a * self.mean) @ vectors
        return s_1.a * self.mean + (offset * spread_1 / spread_0) @ vectors.T

    def log_density(self, x: Tensor) -> Tensor:
        """log of the density that the exact velocity makes of the path's own source at t_max (not of p_t_max)."""
        x_0 = self.transport(x, self.path.t_max, 0.0)
        values, _ = self._spectrum
        s_0, s_1 = self._schedule(0.0), self._schedule(self.path.t_max)
        stretch = 0.5 * ((s_1.a**2 * values + s_1.sigma**2) / (s_0.a**2 * values + s_0.sigma**2)).log().sum()
        std = self.path.source_std
        return -0.5 * (x_0 / std).square().sum(1) - x_0.shape[1] * math.log(std * math.sqrt(2 * math.pi)) - stretch


def correlated_gaussian(path: Path, dims: int = 3, scale: float = 0.5) -> GaussianData:
    root = randn(dims, dims, seed=3) * scale
    return GaussianData(path, randn(dims, seed=4) * scale, root @ root.T + 0.1 * torch.eye(dims, dtype=torch.float64))


@dataclass(frozen=True)
class FiniteData:
    """Data uniform on the rows of `points`: posterior weights, and so any marginal quantity, are finite sums."""

    path: Path
    points: Tensor

    def posterior(self, x: Tensor, t: Tensor | float) -> Tensor:
        """p(x_1 = point | x_t = x), (batch, points)."""
        s = self.path.schedule(torch.as_tensor(t, dtype=torch.float64))
        distance = (x[:, None] - s.a * self.points[None]).square().sum(-1)
        return torch.softmax(-distance / (2 * s.sigma**2), dim=1)

    def mean_of(self, values: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor | float) -> Tensor:
        """Posterior mean of values(x repeated, point repeated) like x."""
        weights = self.posterior(x, t)
        count, dims = len(self.points), x.shape[1]
        pairs = x[:, None].expand(-1, count, dims).reshape(-1, dims), self.points.repeat(len(x), 1)
        return (weights[..., None] * values(*pairs).reshape(len(x), count, dims)).sum(1)

    def log_density(self, x: Tensor, t: Tensor | float) -> Tensor:
        s = self.path.schedule(torch.as_tensor(t, dtype=torch.float64))
        logs = torch.distributions.Normal(s.a * self.points[None], s.sigma).log_prob(x[:, None]).sum(-1)
        return logs.logsumexp(1) - math.log(len(self.points))


@dataclass(frozen=True)
class LinearField:
    """dx/dt = A x: the flow is a matrix exponential, the divergence the trace."""

    matrix: Tensor

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return x @ self.matrix.T.to(x.dtype)

    def flow(self, x: Tensor, duration: float) -> Tensor:
        return x @ torch.linalg.matrix_exp(duration * self.matrix).T

    def log_density(self, x: Tensor, path: Path) -> Tensor:
        """log density at t_max of the path's source carried along."""
        x_0 = self.flow(x, -path.t_max)
        source = torch.distributions.Normal(0.0, path.source_std)
        return source.log_prob(x_0).sum(1) - path.t_max * self.matrix.trace()


@dataclass(frozen=True)
class Ode:
    """A scalar problem y' = slope(y, t), y(0) = 1, with its solution."""

    slope: Callable[[Tensor, Tensor], Tensor]
    solution: Callable[[float], float]


# Not y' = y cos 3t: its leading errors cancel and flatter second-order methods.
ODES = {
    "rational": Ode(lambda y, t: -2 * t * y**2, lambda t: 1 / (1 + t**2)),
    "logistic": Ode(lambda y, t: y * (1.7 - y), lambda t: 1.7 / (1 + 0.7 * math.exp(-1.7 * t))),
}

"""Distances between two sets of features, and how sure they are.

A distance is named with its features (`fd_efficientnet_lite0_b7`); FID is the name of one pair only, which is not here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fm.errors import ValueUserError
from fm.metrics.statistics import FeatureStatistics

Distance = Callable[[Tensor, Tensor], float]  # samples (n, d), reference (m, d) -> distance


class Estimate(NamedTuple):
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def frechet_distance(mu_1: Any, cov_1: Any, mu_2: Any, cov_2: Any) -> float:
    """|mu_1 - mu_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)) in float64 (Dowson and Landau 1982; Heusel et al. 2017).

    The trace of (C_1 C_2)^(1/2) is the sum of the square roots of the eigenvalues of S C_2 S, S the symmetric root of
    C_1: two symmetric problems and no imaginary part to drop. Arrays or tensors, (d,) and (d, d).
    """
    mean_1, c_1, mean_2, c_2 = (torch.as_tensor(a).to("cpu", torch.float64) for a in (mu_1, cov_1, mu_2, cov_2))
    values, vectors = torch.linalg.eigh(c_1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ c_2 @ root).clamp(min=0).sqrt().sum()
    return float((mean_1 - mean_2).square().sum() + c_1.trace() + c_2.trace() - 2 * cross)


def fd(samples: Tensor, reference: Tensor) -> float:
    """Frechet distance of the Gaussians fitted to two (n, d) sets. Its bias is about 1/n: compare equal counts only."""
    return frechet_distance(*FeatureStatistics.of(samples).mean_cov(), *FeatureStatistics.of(reference).mean_cov())


def kid(samples: Tensor, reference: Tensor) -> float:
    """Kernel distance, unbiased squared MMD with (x.y/d + 1)^3, all pairs (Binkowski et al. 2018). Can be below 0."""
    x, y = samples.to(torch.float64), reference.to(torch.float64)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ValueUserError(f"a kernel distance of {min(n, m)} samples is not defined", mend="give at least 2")
    within = (_kernel_sum(x, x) - _kernel_diagonal(x)) / (n * (n - 1))
    within += (_kernel_sum(y, y) - _kernel_diagonal(y)) / (m * (m - 1))
    return within - 2 * _kernel_sum(x, y) / (n * m)


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    return sum(float(_cube((rows @ y.T) / x.shape[1] + 1).sum()) for rows in x.split(1024))


def _kernel_diagonal(x: Tensor) -> float:
    return float(_cube(x.square().sum(1) / x.shape[1] + 1).sum())


def _cube(x: Tensor) -> Tensor:
    return x * x * x  # twenty times faster than pow(3)


def energy(samples: Tensor, reference: Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| of two (n, d) sets (Szekely and Rizzo 2013): 0 for equal sets only.

    Two sets of one law do not get 0 but about E|x - x'| (1/n + 1/m): compare equal counts only, with a floor.
    """
    x, y = samples.to(torch.float64), reference.to(torch.float64)
    return 2 * _mean_length(x, y) - _mean_length(x, x) - _mean_length(y, y)


def _mean_length(x: Tensor, y: Tensor) -> float:
    return float(_lengths(x, y).sum()) / (len(x) * len(y))


def _lengths(x: Tensor, y: Tensor) -> Tensor:
    """The summed distances from each row of x to all rows of y, (n,)."""
    return torch.cat([torch.cdist(rows, y).sum(1) for rows in x.split(1024)])


def jackknife(distance: Distance, samples: Tensor, reference: Tensor, groups: int = 10) -> Estimate:
    """The distance with a 95 % interval from leaving out each of ten groups of samples in turn; nothing is random.

    Sample i belongs to group i modulo ten. The interval holds the chance in the samples; the reference is given.
    """
    value = distance(samples, reference)
    group = torch.arange(len(samples)) % groups
    without = torch.tensor([distance(samples[group != g], reference) for g in range(groups)], dtype=torch.float64)
    return _interval(value, without)


def energy_estimate(samples: Tensor, reference: Tensor, groups: int = 10) -> Estimate:
    """What `jackknife` makes of `energy`, at the cost of one evaluation: a group's sums leave with the group."""
    x, y = samples.to(torch.float64), reference.to(torch.float64)
    group, within = torch.arange(len(x)) % groups, _mean_length(y, y)
    members = torch.nn.functional.one_hot(group, groups).double()
    across = members.T @ _lengths(x, y)  # (groups,)
    inside = torch.stack([members.T @ _lengths(x, x[group == g]) for g in range(groups)])  # (groups, groups)
    left = len(x) - members.sum(0)
    own = inside.sum() - 2 * inside.sum(1) + inside.diagonal()
    without = 2 * (across.sum() - across) / (left * len(y)) - own / left**2 - within
    value = 2 * float(across.sum()) / (len(x) * len(y)) - float(inside.sum()) / len(x) ** 2 - within
    return _interval(value, without)


def _interval(value: float, without: Tensor) -> Estimate:
    """95 % from the values without each group."""
    groups = len(without)
    spread = float((without - without.mean()).square().sum() * (groups - 1) / groups) ** 0.5
    return Estimate(value, value - 1.96 * spread, value + 1.96 * spread)


DISTANCES: dict[str, Distance] = {"energy": energy, "fd": fd, "kid": kid}

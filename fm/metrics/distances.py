"""Distances between two sets of features, and how sure they are.

A distance is named with its features (`fd_efficientnet_lite0_b7`); FID is the name of `fd` on an Inception protocol.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fm.errors import ValueUserError
from fm.metrics.frechet import distance_to, fd, fd_infinity, rank_deficient
from fm.metrics.neighbours import precision, recall
from fm.metrics.sliced import mind
from fm.metrics.statistics import FeatureStatistics

Distance = Callable[[Tensor, Tensor], float]  # samples (n, d), reference (m, d) -> distance


class Estimate(NamedTuple):
    """A value with the ends of its 95 % interval, and the values without each of the groups that it comes from."""

    value: float
    low: float
    high: float
    without: tuple[float, ...]


def kid(samples: Tensor, reference: Tensor) -> float:
    """Kernel distance, unbiased squared MMD with (x.y/d + 1)^3, all pairs (Binkowski et al. 2018). Can be below 0.

    Raises: ValueUserError below two rows.
    """
    x, y = samples.to(torch.float64), reference.to(torch.float64)
    within = sum(_mean_of_pairs(_kernels(z, z).sum() - _self_kernels(z).sum(), len(z)) for z in (x, y))
    return float(within - 2 * _kernels(x, y).mean() / len(y))


def _mean_of_pairs(total: Tensor, n: int) -> Tensor:
    if n < 2:
        raise ValueUserError(f"a kernel distance of {n} samples is not defined", mend="give at least 2")
    return total / (n * (n - 1))


def _kernels(x: Tensor, y: Tensor) -> Tensor:
    """The summed kernels of each row of x with all rows of y, (n,)."""
    return torch.cat([_cube(rows @ y.T / x.shape[1] + 1).sum(1) for rows in x.split(1024)])


def _self_kernels(x: Tensor) -> Tensor:
    return _cube(x.square().sum(1) / x.shape[1] + 1)


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


def estimate(name: str, samples: Tensor, reference: Tensor) -> Estimate:
    """The distance of that name with its interval, by the fastest way to the same jackknife."""
    fast = FAST.get(name)
    return fast(samples, reference) if fast else jackknife(DISTANCES[name], samples, reference)


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
    within, sums = _mean_length(y, y), _Grouped.of(_lengths, x, y, groups)
    left = len(x) - sums.sizes
    without = 2 * sums.across_without / (left * len(y)) - sums.inside_without / left**2 - within
    value = 2 * float(sums.across.sum()) / (len(x) * len(y)) - float(sums.inside.sum()) / len(x) ** 2 - within
    return _interval(value, without)


def kid_estimate(samples: Tensor, reference: Tensor, groups: int = 10) -> Estimate:
    """What `jackknife` makes of `kid`, at the cost of one evaluation."""
    x, y = samples.to(torch.float64), reference.to(torch.float64)
    sums, own = _Grouped.of(_kernels, x, y, groups), _self_kernels(x)
    own_without = own.sum() - sums.members.T @ own
    left = len(x) - sums.sizes
    without = (sums.inside_without - own_without) / (left * (left - 1)) - 2 * sums.across_without / (left * len(y))
    within = _mean_of_pairs(_kernels(y, y).sum() - _self_kernels(y).sum(), len(y))
    value = _mean_of_pairs(sums.inside.sum() - own.sum(), len(x)) - 2 * sums.across.sum() / (len(x) * len(y)) + within
    return _interval(float(value), without + within)


def fd_estimate(samples: Tensor, reference: Tensor, groups: int = 10) -> Estimate:
    """What `jackknife` makes of `fd`: each group's moments are taken once, the reference's root too."""
    if rank_deficient(samples[: len(samples) - -(-len(samples) // groups)]) or rank_deficient(reference):
        return jackknife(fd, samples, reference, groups)
    group = torch.arange(len(samples)) % groups
    own = [FeatureStatistics.of(samples[group == g]) for g in range(groups)]
    to_reference = distance_to(*FeatureStatistics.of(reference).mean_cov())
    without = []
    for left_out in range(groups):
        rest = FeatureStatistics()
        for g in range(groups):
            if g != left_out:
                rest.merge(own[g])
        without.append(to_reference(*rest.mean_cov()))
    return _interval(fd(samples, reference), torch.tensor(without, dtype=torch.float64))


class _Grouped(NamedTuple):
    """Sums over pairs by the groups of their samples, and what is left of them without each group.

    members: (n, groups) of 0 and 1. across: (groups,), pairs with the reference. inside: (groups, groups).
    """

    members: Tensor
    across: Tensor
    inside: Tensor

    @staticmethod
    def of(row_sums: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, groups: int) -> "_Grouped":
        group = torch.arange(len(x)) % groups
        members = torch.nn.functional.one_hot(group, groups).double()
        inside = torch.stack([members.T @ row_sums(x, x[group == g]) for g in range(groups)])
        return _Grouped(members, members.T @ row_sums(x, y), inside)

    @property
    def sizes(self) -> Tensor:
        return self.members.sum(0)

    @property
    def across_without(self) -> Tensor:
        return self.across.sum() - self.across

    @property
    def inside_without(self) -> Tensor:
        return self.inside.sum() - 2 * self.inside.sum(1) + self.inside.diagonal()


def _interval(value: float, without: Tensor) -> Estimate:
    """95 % from the values without each group."""
    groups = len(without)
    spread = float((without - without.mean()).square().sum() * (groups - 1) / groups) ** 0.5
    return Estimate(value, value - 1.96 * spread, value + 1.96 * spread, tuple(without.tolist()))


DISTANCES: dict[str, Distance] = {
    "energy": energy,
    "fd": fd,
    "fd_infinity": fd_infinity,
    "kid": kid,
    "mind": mind,
    "precision_k3": precision,
    "recall_k3": recall,
}
FAST: dict[str, Callable[[Tensor, Tensor], Estimate]] = {
    "energy": energy_estimate,
    "fd": fd_estimate,
    "kid": kid_estimate,
}

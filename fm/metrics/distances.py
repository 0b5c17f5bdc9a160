"""Distances between two sets of features, and how sure they are.

A distance is named with its features (`fd_efficientnet_lite0_b7`); FID is the name of `fd` on an Inception protocol.
Sums over pairs of rows run on a GPU where this process may use one, `fd` and `mind` on the CPU; all are float64.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from fm.errors import ValueUserError, member
from fm.jackknife import GROUPS, half_interval
from fm.metrics.frechet import distance_to, fd, fd_infinity, rank_deficient
from fm.metrics.neighbours import among, among_without, precision, radii, radii_without, recall
from fm.metrics.pairs import across, inside
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
    between = float(across(_cubes, samples, reference).sum()) / (len(samples) * len(reference))
    return float(kid_within(samples) + kid_within(reference)) - 2 * between


def kid_within(rows: Tensor) -> Tensor:
    """The mean kernel of two different rows."""
    if len(rows) < 2:
        raise ValueUserError(f"a kernel distance of {len(rows)} samples is not defined", mend="give at least 2")
    return (inside(_cubes, rows).sum() - _self_kernels(rows).sum()) / (len(rows) * (len(rows) - 1))


def _cubes(x: Tensor, y: Tensor) -> Tensor:
    dot = (x @ y.T).div_(x.shape[1]).add_(1)
    return dot * dot * dot  # twenty times faster than pow(3)


def _self_kernels(x: Tensor) -> Tensor:
    """The kernel of each row with itself, (n,)."""
    dot = torch.cat([rows.double().square().sum(1) for rows in x.split(2048)]) / x.shape[1] + 1
    return (dot * dot * dot).cpu()


def energy(samples: Tensor, reference: Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| of two (n, d) sets (Szekely and Rizzo 2013): 0 for equal sets only.

    Two sets of one law do not get 0 but about E|x - x'| (1/n + 1/m): compare equal counts only, with a floor.
    """
    between = float(across(torch.cdist, samples, reference).sum()) / (len(samples) * len(reference))
    return 2 * between - float(energy_within(samples)) - float(energy_within(reference))


def energy_within(rows: Tensor) -> Tensor:
    """The mean distance of two rows, each with itself too."""
    return inside(torch.cdist, rows).sum() / len(rows) ** 2


def of_reference(name: str, reference: Tensor) -> Tensor | None:
    """What the distance of that name needs of the reference alone, for `estimate` to take again and again.

    `kid` and `energy`: the mean over its pairs; `precision_k3`: the radius of each row; others have nothing to keep.
    """
    work = ALONE.get(name)
    return work(reference) if work else None


def estimate(name: str, samples: Tensor, reference: Tensor, alone: Tensor | None = None) -> Estimate:
    """The distance of that name with its interval, by the fastest way to the same jackknife.

    `alone` is what `of_reference` gave for this name and reference.

    Raises: SettingsError for an unknown name.
    """
    distance = member(name, DISTANCES, "distance")
    if name in FAST:
        return FAST[name](samples, reference, alone)
    return jackknife(distance, samples, reference)


def distance(name: str, samples: Tensor, reference: Tensor, alone: Tensor | None = None) -> float:
    """The distance of that name, without its interval; `alone` as for `estimate`."""
    if name in ALONE:
        return FAST[name](samples, reference, alone).value
    return member(name, DISTANCES, "distance")(samples, reference)


def jackknife(distance: Distance, samples: Tensor, reference: Tensor, groups: int = GROUPS) -> Estimate:
    """The distance with a 95 % interval from leaving out each of ten groups of samples in turn; nothing is random.

    Sample i belongs to group i modulo ten. The interval holds the chance in the samples; the reference is given.
    """
    value = distance(samples, reference)
    group = torch.arange(len(samples)) % groups
    return _interval(value, [distance(samples[group != g], reference) for g in range(groups)])


def energy_estimate(samples: Tensor, reference: Tensor, alone: Tensor | None = None) -> Estimate:
    """What `jackknife` makes of `energy`, at the cost of one evaluation: a group's sums leave with the group."""
    within = energy_within(reference) if alone is None else alone
    sums = _Grouped(across(torch.cdist, samples, reference, GROUPS), inside(torch.cdist, samples, GROUPS))
    left = len(samples) - _sizes(samples)
    without = 2 * sums.across_without / (left * len(reference)) - sums.inside_without / left**2 - within
    between = 2 * sums.across.sum() / (len(samples) * len(reference))
    return _interval(float(between - sums.inside.sum() / len(samples) ** 2 - within), without)


def kid_estimate(samples: Tensor, reference: Tensor, alone: Tensor | None = None) -> Estimate:
    """What `jackknife` makes of `kid`, at the cost of one evaluation.

    Raises: ValueUserError below two rows.
    """
    within = kid_within(reference) if alone is None else alone
    n, m, own = len(samples), len(reference), _self_kernels(samples)
    if n < 2:
        raise ValueUserError(f"a kernel distance of {n} samples is not defined", mend="give at least 2")
    sums = _Grouped(across(_cubes, samples, reference, GROUPS), inside(_cubes, samples, GROUPS))
    left = n - _sizes(samples)
    own_without = own.sum() - _by_group(own)
    without = (sums.inside_without - own_without) / (left * (left - 1)) - 2 * sums.across_without / (left * m)
    value = (sums.inside.sum() - own.sum()) / (n * (n - 1)) - 2 * sums.across.sum() / (n * m)
    return _interval(float(value + within), without + within)


def precision_estimate(samples: Tensor, reference: Tensor, alone: Tensor | None = None) -> Estimate:
    """What `jackknife` makes of `precision`, at the cost of one evaluation: the balls are of the reference."""
    good = among(samples, reference, radii(reference) if alone is None else alone).double()
    without = (good.sum() - _by_group(good)) / (len(samples) - _sizes(samples))
    return _interval(float(good.mean()), without)


def recall_estimate(samples: Tensor, reference: Tensor, alone: Tensor | None = None) -> Estimate:
    """What `jackknife` makes of `recall`, at the cost of one evaluation: each row keeps its nearest of every group."""
    found = among_without(reference, samples, radii_without(samples, GROUPS)).double().mean(1)
    return _interval(float(found[0]), found[1:])


def fd_estimate(samples: Tensor, reference: Tensor, alone: Tensor | None = None) -> Estimate:
    """What `jackknife` makes of `fd`: each group's moments are taken once, the reference's root too."""
    fewest = len(samples) - -(-len(samples) // GROUPS)
    if rank_deficient(samples[:fewest]) or rank_deficient(reference):
        return jackknife(fd, samples, reference)
    own = [FeatureStatistics.of(samples[group::GROUPS]) for group in range(GROUPS)]
    to_reference = distance_to(*FeatureStatistics.of(reference).mean_cov())
    without = []
    for left_out in range(GROUPS):
        rest = FeatureStatistics()
        for group in range(GROUPS):
            if group != left_out:
                rest.merge(own[group])
        without.append(to_reference(*rest.mean_cov()))
    return _interval(fd(samples, reference), without)


class _Grouped(NamedTuple):
    """Sums over pairs by the groups of their samples, and what is left of them without each group.

    across: (groups,), pairs with the reference. inside: (groups, groups).
    """

    across: Tensor
    inside: Tensor

    @property
    def across_without(self) -> Tensor:
        return self.across.sum() - self.across

    @property
    def inside_without(self) -> Tensor:
        return self.inside.sum() - 2 * self.inside.sum(1) + self.inside.diagonal()


def _sizes(samples: Tensor) -> Tensor:
    return _by_group(torch.ones(len(samples), dtype=torch.float64))


def _by_group(values: Tensor) -> Tensor:
    """The sum of the values (n,) of each group of samples."""
    return torch.stack([values[g::GROUPS].sum() for g in range(GROUPS)])


def _interval(value: float, without: Iterable[float] | Tensor) -> Estimate:
    """95 % from the values without each group."""
    left = torch.as_tensor(without, dtype=torch.float64).tolist()
    half = half_interval(left)
    return Estimate(value, value - half, value + half, tuple(left))


DISTANCES: dict[str, Distance] = {
    "energy": energy,
    "fd": fd,
    "fd_infinity": fd_infinity,
    "kid": kid,
    "mind": mind,
    "precision_k3": precision,
    "recall_k3": recall,
}
FAST: dict[str, Callable[[Tensor, Tensor, Tensor | None], Estimate]] = {
    "energy": energy_estimate,
    "fd": fd_estimate,
    "kid": kid_estimate,
    "precision_k3": precision_estimate,
    "recall_k3": recall_estimate,
}
ALONE: dict[str, Callable[[Tensor], Tensor]] = {"energy": energy_within, "kid": kid_within, "precision_k3": radii}

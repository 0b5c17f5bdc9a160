"""MIND: the sliced Wasserstein distance of features, which a few thousand samples suffice for."""

import torch
from torch import Tensor

from fm.errors import ValueUserError
from fm.noise import draws

DIRECTIONS = 1000
AT_ONCE = 100


def mind(samples: Tensor, reference: Tensor, seed: int = 0) -> float:
    """3 d times the mean of W_2^2 over 1,000 seeded directions, of two (n, d) sets (Berthet et al. 2026).

    W_2^2 on a line is between sorted values, and of quantiles where the counts differ (peers drop rows instead). Like
    any distance of samples it is above 0 for two sets of one law, by about 1/n + 1/m: compare equal counts only.

    Raises: ValueUserError for an empty set.
    """
    if not (len(samples) and len(reference)):
        raise ValueUserError("the distance to no samples is not defined", mend="give at least 1")
    weights, rows, columns = _plan(len(samples), len(reference))
    width = samples.shape[1]
    directions = torch.nn.functional.normalize(draws(seed, "mind", torch.arange(DIRECTIONS), (width,)).double())
    total = 0.0
    for some in directions.split(AT_ONCE):
        a, b = (_projected(z, some).sort(0).values for z in (samples, reference))
        total += float(weights @ (a[rows] - b[columns]).square().sum(1))
    return 3 * width * total / DIRECTIONS


def _projected(rows: Tensor, directions: Tensor) -> Tensor:
    """Rows (n, d) on directions (k, d): (n, k) float64, on the CPU."""
    return torch.cat([some.to("cpu", torch.float64) @ directions.T for some in rows.split(4096)])


def _plan(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """How n sorted values of weight 1/n move to m of weight 1/m: the weight of each move, from and to which rank."""
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()  # in units of 1/(n m)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    return (ends - starts).double() / (n * m), starts // m, starts // n

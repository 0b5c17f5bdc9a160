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
    x, y = samples.double(), reference.double()
    weights, rows, columns = _plan(len(x), len(y))
    directions = draws(seed, "mind", torch.arange(DIRECTIONS), (x.shape[1],)).double()
    total = 0.0
    for some in torch.nn.functional.normalize(directions).split(AT_ONCE):
        a, b = ((z @ some.T).sort(0).values for z in (x, y))
        total += float(weights @ (a[rows] - b[columns]).square().sum(1))
    return 3 * x.shape[1] * total / DIRECTIONS


def _plan(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """How n sorted values of weight 1/n move to m of weight 1/m: the weight of each move, from and to which rank."""
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()  # in units of 1/(n m)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    return (ends - starts).double() / (n * m), starts // m, starts // n

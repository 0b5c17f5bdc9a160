"""How near samples lie to training images, beside how near held-out images do: what was learned by heart.

Euclidean distances in the space of features, in float64.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fm.errors import ValueUserError

NEIGHBOURS = 3
ROWS = 1024  # at once
QUANTILE = 0.01  # of the held-out images' distances: nearer than all but this share of them is suspicious


@dataclass(frozen=True)
class Memorisation:
    """samples (k,) nearest first, neighbours (k, 3) indices of training images with distances (k, 3).

    `median` and `heldout_median` are of the distances to the nearest training image; `near` is the share of samples
    that lie nearer than `threshold`, as 1 % of the held-out images do.
    """

    samples: Tensor
    neighbours: Tensor
    distances: Tensor
    median: float
    heldout_median: float
    threshold: float
    near: float


def nearest(rows: Tensor, centres: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """Distances and indices (n, count) of the centres (m, d) that are nearest to each row (n, d), in their order."""
    found = [torch.cdist(part.double(), centres.double()).topk(count, largest=False) for part in rows.split(ROWS)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def memorisation(samples: Tensor, training: Tensor, heldout: Tensor, count: int = 8) -> Memorisation:
    """The `count` samples (n, d) nearest to training images (m, d), beside how near held-out images (h, d) come.

    Raises: ValueUserError for fewer training images than neighbours.
    """
    if len(training) < NEIGHBOURS:
        raise ValueUserError(f"{len(training)} training images are fewer than {NEIGHBOURS} neighbours")
    (distances, neighbours), (others, _) = nearest(samples, training, NEIGHBOURS), nearest(heldout, training)
    order = distances[:, 0].argsort(stable=True)[:count]
    threshold = float(others.quantile(QUANTILE))
    return Memorisation(
        samples=order,
        neighbours=neighbours[order],
        distances=distances[order],
        median=float(distances[:, 0].median()),
        heldout_median=float(others.median()),
        threshold=threshold,
        near=float((distances[:, 0] < threshold).double().mean()),
    )

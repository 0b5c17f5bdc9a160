"""Precision and recall: shares of one set that lie among the other, in the sense of its nearest neighbours.

Both are better the higher, and both depend on the two counts, which stand in a row beside them.
"""

import torch
from torch import Tensor

from fm.errors import ValueUserError
from fm.metrics.pairs import members, place, tiles

K = 3  # neighbours, as published; it stands in the names `precision_k3` and `recall_k3`


def precision(samples: Tensor, reference: Tensor) -> float:
    """The share of samples that are as near to some reference row as its third neighbour (Kynkaanniemi et al. 2019).

    Raises: ValueUserError for fewer than four reference rows.
    """
    return float(among(samples, reference, radii(reference)).double().mean())


def recall(samples: Tensor, reference: Tensor) -> float:
    """The share of reference rows that are as near to some sample as its third neighbour (Kynkaanniemi et al. 2019).

    Its jackknife interval is too wide for few samples: 2.5 times at 60, right at 300.

    Raises: ValueUserError for fewer than four samples.
    """
    return float(among(reference, samples, radii(samples)).double().mean())


def radii(rows: Tensor) -> Tensor:
    """The distance from each row to its third neighbour among the others: (n,) float64 on the CPU.

    Raises: ValueUserError for fewer than four rows.
    """
    return radii_without(rows, 1)[0]


def radii_without(rows: Tensor, groups: int) -> Tensor:
    """`radii` of all rows, then without each of the groups (row i: i modulo `groups`) if there are several.

    (1 + groups, n), or (1, n) for one group; a row that has left has the radius among those that stay.
    """
    left = len(rows) if groups == 1 else len(rows) - -(-len(rows) // groups)
    if left <= K:
        raise ValueUserError(f"{left} rows have no {K} neighbours each", mend=f"give at least {K + 1}")
    device, found = place(rows), []
    for part, some in tiles(rows, device):
        nearest = torch.full((groups, len(some), K), torch.inf, dtype=torch.float64, device=device)
        for other, others in tiles(rows, device):
            apart = torch.cdist(some, others)
            if other.start == part.start:
                apart.fill_diagonal_(torch.inf)  # no row is its own neighbour
            for g in range(groups):
                near = apart[:, (g - other.start) % groups :: groups]
                nearest[g] = _smallest(torch.cat([nearest[g], near], 1))
        found.append(_without_each(nearest).cpu())
    return torch.cat(found, 1)


def _smallest(distances: Tensor) -> Tensor:
    return distances.topk(K, 1, largest=False).values


def _without_each(nearest: Tensor) -> Tensor:
    """From the nearest of each group (groups, n, k): the k-th of all, then of all but each group, (1 + groups, n)."""
    groups = len(nearest)
    left = [range(groups)] + [[g for g in range(groups) if g != gone] for gone in range(groups) if groups > 1]
    return torch.stack([_smallest(torch.cat([nearest[g] for g in some], 1)).amax(1) for some in left])


def among(points: Tensor, centres: Tensor, radius: Tensor) -> Tensor:
    """Which points lie in the ball of any centre: (n,) of bool, on the CPU."""
    return among_without(points, centres, radius[None])[0]


def among_without(points: Tensor, centres: Tensor, radius: Tensor) -> Tensor:
    """`among` for each row of radii (1, m) or (1 + groups, m), of which all but the first leave their group out."""
    device, found, groups = place(points), [], len(radius) - 1
    for _, some in tiles(points, device):
        inside = torch.zeros(len(radius), len(some), dtype=torch.bool, device=device)
        for part, others in tiles(centres, device):
            reach = radius[:, part].clone().to(device)
            if groups:
                reach[1:].masked_fill_(members(part, len(others), groups, device).T.bool(), -1)
            apart = torch.cdist(some, others)
            for seen, ball in zip(inside, reach, strict=True):
                seen |= (apart <= ball).any(1)
        found.append(inside.cpu())
    return torch.cat(found, 1)

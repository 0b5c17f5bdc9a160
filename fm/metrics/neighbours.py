"""Precision and recall: shares of one set that lie among the other, in the sense of its nearest neighbours.

Both are better the higher, and both depend on the two counts, which stand in a row beside them.
"""

import torch
from torch import Tensor

from fm.errors import ValueUserError

K = 3  # neighbours, as published; it stands in the names `precision_k3` and `recall_k3`
ROWS = 1024  # at once


def precision(samples: Tensor, reference: Tensor) -> float:
    """The share of samples that are as near to some reference row as its third neighbour (Kynkaanniemi et al. 2019).

    Raises: ValueUserError for fewer than four reference rows.
    """
    return _share(samples.double(), reference.double())


def recall(samples: Tensor, reference: Tensor) -> float:
    """The share of reference rows that are as near to some sample as its third neighbour (Kynkaanniemi et al. 2019).

    Its jackknife interval is too wide for few samples: 2.5 times at 60, right at 300.

    Raises: ValueUserError for fewer than four samples.
    """
    return _share(reference.double(), samples.double())


def _share(points: Tensor, centres: Tensor) -> float:
    """Of the points, those in the ball of any centre, which reaches to its own k-th neighbour."""
    if len(centres) <= K:
        raise ValueUserError(f"{len(centres)} rows have no {K} neighbours each", mend=f"give at least {K + 1}")
    radii = torch.cat([torch.cdist(rows, centres).kthvalue(K + 1).values for rows in centres.split(ROWS)])  # + itself
    inside = [(torch.cdist(rows, centres) <= radii).any(1) for rows in points.split(ROWS)]
    return float(torch.cat(inside).double().mean())

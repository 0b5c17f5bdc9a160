"""Inception Score: of one set of pictures alone, so it sees no difference to the data."""

import torch
from torch import Tensor

from fm.errors import ValueUserError


def inception_score(probabilities: Tensor, splits: int = 10) -> tuple[float, float]:
    """exp E KL(p(y|x) || p(y)) of class probabilities (n, classes), mean and s.d. of ten splits (Salimans et al. 2016).

    The splits are consecutive, each with its own p(y); the s.d. is over the splits (divided by their number), as peers
    print it, no standard error. `inception_classes` gives the probabilities; compare equal counts only.

    Raises: ValueUserError for fewer rows than splits.
    """
    if len(probabilities) < splits:
        raise ValueUserError(f"{len(probabilities)} samples do not make {splits} splits", mend=f"give {splits} or more")
    scores = []
    for p in probabilities.double().tensor_split(splits):
        divergence = torch.special.xlogy(p, p) - torch.special.xlogy(p, p.mean(0))
        scores.append(divergence.sum(1).mean().exp())
    return float(torch.stack(scores).mean()), float(torch.stack(scores).std(correction=0))

"""Inception Score: of one set of pictures alone, so it sees no difference to the data."""

from functools import lru_cache

import torch
from torch import Tensor

from fm.errors import ValueUserError
from fm.metrics import inception
from fm.metrics.network import Features

SPLITS = 10


def class_probabilities(images: Tensor, features: Features) -> Tensor | None:
    """What `inception_score` is of: (n, 1008) of uint8 pictures (n, c, h, w), beside features from the same file.

    None beside others: whether a row has the score must not depend on which files a machine has.
    """
    return _classes(features.device)(images) if features.weights == inception.CLASSES.weights.sha256 else None


@lru_cache(maxsize=1)
def _classes(device: str) -> Features:
    return inception.CLASSES.load(device)


def inception_score(probabilities: Tensor, splits: int = SPLITS) -> tuple[float, float]:
    """exp E KL(p(y|x) || p(y)) of class probabilities (n, classes), mean and s.d. of ten splits (Salimans et al. 2016).

    The splits are consecutive, each with its own p(y); the s.d. is over the splits (divided by their number), as peers
    print it, no standard error. Compare equal counts only.

    Raises: ValueUserError for fewer rows than splits.
    """
    if len(probabilities) < splits:
        raise ValueUserError(f"{len(probabilities)} samples do not make {splits} splits", mend=f"give {splits} or more")
    scores = []
    for p in probabilities.double().tensor_split(splits):
        divergence = torch.special.xlogy(p, p) - torch.special.xlogy(p, p.mean(0))
        scores.append(divergence.sum(1).mean().exp())
    return float(torch.stack(scores).mean()), float(torch.stack(scores).std(correction=0))

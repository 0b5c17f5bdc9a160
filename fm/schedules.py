"""Learning rates as functions of the images seen: no state, so a resume needs none."""

import math
from collections.abc import Callable

FLOOR = 1e-8  # where warm-ups start and decays end in the paper


def _warm(images_seen: int, warmup: int, peak: float) -> float:
    return FLOOR + (peak - FLOOR) * images_seen / warmup


def constant(images_seen: int, total: int, warmup: int, peak: float) -> float:
    """Linear from 1e-8 to the peak over the warm-up, then the peak."""
    return _warm(images_seen, warmup, peak) if images_seen < warmup else peak


def polynomial(images_seen: int, total: int, warmup: int, peak: float) -> float:
    """Linear from 1e-8 to the peak over the warm-up, then linear to 1e-8 at the end: Table 3's "polynomial decay"."""
    if images_seen < warmup:
        return _warm(images_seen, warmup, peak)
    return FLOOR + (peak - FLOOR) * _left(images_seen, total, warmup)


def cosine(images_seen: int, total: int, warmup: int, peak: float) -> float:
    """Linear from 1e-8 to the peak over the warm-up, then half a cosine down to 1e-8 at the end."""
    if images_seen < warmup:
        return _warm(images_seen, warmup, peak)
    return FLOOR + (peak - FLOOR) * (1 - math.cos(math.pi * _left(images_seen, total, warmup))) / 2


def _left(images_seen: int, total: int, warmup: int) -> float:
    """Share of the way from the end of the warm-up to the end of the run that lies ahead, 1 to 0."""
    return max(0.0, (total - images_seen) / max(1, total - warmup))


SCHEDULES: dict[str, Callable[[int, int, int, float], float]] = {
    "constant": constant,
    "polynomial": polynomial,
    "cosine": cosine,
}

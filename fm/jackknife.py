"""Uncertainty by leaving out groups: item i belongs to group i modulo ten, so nothing is random.

The same groups serve samples and images; two runs on the same items are compared by the differences, group by group.
"""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean

GROUPS = 10
STUDENT = 2.262  # 95 % of Student's t with the nine degrees of freedom that ten groups leave lie within


def means_without(values: Sequence[float]) -> list[float] | None:
    """The means of values without each group; None for fewer than a value in each."""
    if len(values) < GROUPS:
        return None
    return [fmean(value for i, value in enumerate(values) if i % GROUPS != g) for g in range(GROUPS)]


def variance(without: Sequence[float]) -> float:
    """Of a value, from what it is without each group (Tukey 1958)."""
    mean, groups = fmean(without), len(without)
    return (groups - 1) / groups * sum((value - mean) ** 2 for value in without)


def half_interval(without: Sequence[float]) -> float:
    """Half of a value's 95 % interval, from what it is without each group."""
    return STUDENT * sqrt(variance(without))

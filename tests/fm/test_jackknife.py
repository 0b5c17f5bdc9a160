import random
from statistics import fmean, variance

import pytest

from fm import jackknife


def test_of_a_mean_it_is_the_variance_of_the_mean() -> None:
    draw = random.Random(0)
    values = [draw.gauss(0, 1) for _ in range(jackknife.GROUPS)]
    without = [fmean(values[:i] + values[i + 1 :]) for i in range(len(values))]
    assert jackknife.variance(without) == pytest.approx(variance(values) / len(values))
    assert jackknife.half_interval(without) == pytest.approx(2.262 * (variance(values) / len(values)) ** 0.5)


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    draw, inside = random.Random(1), 0
    for _ in range(2000):
        groups = [fmean(draw.gauss(0, 1) for _ in range(5)) for _ in range(jackknife.GROUPS)]
        without = [fmean(groups[:i] + groups[i + 1 :]) for i in range(len(groups))]
        inside += abs(fmean(groups)) < jackknife.half_interval(without)
    assert 0.935 < inside / 2000 < 0.965

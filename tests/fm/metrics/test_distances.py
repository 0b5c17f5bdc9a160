import numpy as np
import pytest
import torch

from fm.metrics import DISTANCES, estimate, jackknife
from fm.metrics.distances import FAST
from fm.noise import draws
from fm.results import SIMILARITIES


def rows(seed: int, n: int, d: int = 6) -> torch.Tensor:
    return draws(seed, "rows", torch.arange(n), (d,))


def test_kid_equals_its_definition():
    x, y = rows(1, 12).double(), rows(2, 9).double() + 0.5
    k = lambda a, b: ((a @ b) / 6 + 1) ** 3  # noqa: E731
    mean = lambda p, q, same: np.mean(  # noqa: E731
        [k(p[i], q[j]) for i in range(len(p)) for j in range(len(q)) if not (same and i == j)]
    )
    expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert DISTANCES["kid"](x, y) == pytest.approx(expected, rel=1e-10)


def test_energy_equals_its_definition():
    x, y = rows(1, 12).double(), rows(2, 9).double() + 0.5
    mean = lambda p, q: torch.linalg.norm(p[:, None] - q[None], dim=2).mean()  # noqa: E731
    expected = 2 * mean(x, y) - mean(x, x) - mean(y, y)
    assert DISTANCES["energy"](x, y) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("name", DISTANCES)
def test_every_distance_grows_with_the_difference_and_similarities_fall(name):
    reference = rows(0, 400)
    values = [DISTANCES[name](rows(1, 400) + shift, reference) for shift in (0, 0.5, 1, 2)]
    if name.startswith(SIMILARITIES):
        values = [1 - value for value in values]
    assert values == sorted(values)
    assert abs(values[0]) < max(0.2, 0.02 * values[-1])


@pytest.mark.parametrize("name", DISTANCES)
def test_interval_is_as_wide_as_the_spread_over_fresh_samples(name):
    count = 300 if name == "recall_k3" else 60  # its balls shrink with the count: of 60 samples 2.5 times too wide
    reference = rows(0, 200)
    estimates = [estimate(name, rows(seed, count) + 0.5, reference) for seed in range(1, 21)]
    spread = np.std([e.value for e in estimates], ddof=1)
    half = np.mean([(e.high - e.low) / 2 for e in estimates])
    assert 0.65 < half / (1.96 * spread) < 1.5
    assert all(e.low <= e.value <= e.high for e in estimates)


@pytest.mark.parametrize("name", FAST)
def test_the_fast_estimates_are_the_jackknife(name):
    x, y = rows(1, 57), rows(2, 40) + 0.5
    assert FAST[name](x, y) == pytest.approx(jackknife(DISTANCES[name], x, y), rel=1e-6)


def test_jackknife_repeats_itself():
    assert estimate("fd", rows(1, 50), rows(2, 50)) == estimate("fd", rows(1, 50), rows(2, 50))

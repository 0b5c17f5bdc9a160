import subprocess
import sys

import numpy as np
import pytest
import torch

from fm.errors import SettingsError
from fm.metrics import DISTANCES, estimate, jackknife, of_reference
from fm.metrics.distances import ALONE, FAST
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
    assert 0.65 < half / (2.262 * spread) < 1.5
    assert all(e.low <= e.value <= e.high for e in estimates)


@pytest.mark.parametrize("tile", [16, 2048])
@pytest.mark.parametrize("name", FAST)
def test_the_fast_estimates_are_the_jackknife(name, tile, monkeypatch):
    monkeypatch.setattr("fm.metrics.pairs.TILE", tile)
    for n, m in ((57, 40), (40, 57)):
        x, y = rows(1, n), rows(2, m) + 0.5
        fast, slow = estimate(name, x, y), jackknife(DISTANCES[name], x, y)
        assert fast[:3] == pytest.approx(slow[:3], rel=1e-9) and fast.without == pytest.approx(slow.without, rel=1e-9)


@pytest.mark.parametrize("name", DISTANCES)
def test_what_is_of_the_reference_alone_is_used_and_changes_nothing(name):
    x, y = rows(1, 57), rows(2, 40) + 0.5
    alone = of_reference(name, y)
    assert estimate(name, x, y, alone) == estimate(name, x, y)
    if alone is None:
        assert name not in ALONE
    else:
        assert estimate(name, x, y, 2 * alone) != estimate(name, x, y)


def test_an_unknown_distance_names_the_nearest():
    with pytest.raises(SettingsError, match="did you mean 'precision_k3'"):
        estimate("precision", rows(1, 20), rows(2, 20))


MEMORY = """
import sys, torch
from fm.metrics import estimate, of_reference
def peak(): return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) / 1024
torch.set_num_threads(1)
x, y = torch.rand(12_000, 256), torch.rand(12_000, 256)
estimate(sys.argv[1], x[:3000], y[:3000])
before = peak()
of_reference(sys.argv[1], y)
estimate(sys.argv[1], x[:3000], y)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DISTANCES if name not in ("fd_infinity", "recall_k3")])
def test_memory_does_not_grow_with_the_count_of_rows(name):
    """In MiB beside the rows; all pairs at once would take 275 of 3,000 and 12,000 rows, or 1,100."""
    done = subprocess.run([sys.executable, "-c", MEMORY, name], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 150


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU on this machine")
def test_on_a_gpu_it_is_the_same(name, monkeypatch):
    x, y = rows(1, 3000, 64), rows(2, 2500, 64) + 0.3
    there = estimate(name, x.cuda(), y.cuda())
    monkeypatch.setattr("fm.metrics.pairs.place", lambda rows: torch.device("cpu"))
    monkeypatch.setattr("fm.metrics.neighbours.place", lambda rows: torch.device("cpu"))
    assert there == pytest.approx(estimate(name, x, y), rel=1e-9)


def test_jackknife_repeats_itself():
    assert estimate("fd", rows(1, 50), rows(2, 50)) == estimate("fd", rows(1, 50), rows(2, 50))

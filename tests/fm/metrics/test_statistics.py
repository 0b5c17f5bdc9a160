import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fm.errors import ValueUserError
from fm.metrics import FeatureStatistics
from fm.noise import draws

ROWS = draws(3, "statistics", torch.arange(700), (5,)) * torch.tensor([1.0, 2, 0.1, 30, 1e-3]) + 100


def test_equals_numpy_on_features_far_from_zero():
    mean, cov = FeatureStatistics.of(ROWS).mean_cov()
    assert torch.allclose(mean, ROWS.double().mean(0), rtol=1e-14)
    assert torch.allclose(cov, torch.cov(ROWS.double().T), rtol=1e-9, atol=1e-12)
    assert cov.dtype == torch.float64


@given(st.lists(st.integers(1, 300), min_size=1, max_size=20))
def test_bits_do_not_depend_on_the_batches(sizes):
    whole, parts, start = FeatureStatistics.of(ROWS), FeatureStatistics(), 0
    for size in [*sizes, len(ROWS)]:
        parts.update(ROWS[start : start + size])
        start += size
    for ours, theirs in zip(parts.mean_cov(), whole.mean_cov(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("cut", [0, 1, 256, 300, 700])
def test_merge_is_the_union(cut):
    merged = FeatureStatistics.of(ROWS[:cut]).merge(FeatureStatistics.of(ROWS[cut:]))
    assert merged.count == 700
    for ours, theirs in zip(merged.mean_cov(), FeatureStatistics.of(ROWS).mean_cov(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12)


def test_the_merged_object_may_go_on():
    merged = FeatureStatistics.of(ROWS[:100]).merge(FeatureStatistics.of(ROWS[100:200])).update(ROWS[200:])
    assert torch.allclose(merged.mean_cov()[1], FeatureStatistics.of(ROWS).mean_cov()[1], rtol=1e-12)


def test_what_is_no_set_of_rows_is_refused():
    with pytest.raises(ValueUserError, match="covariance of 1 samples"):
        FeatureStatistics.of(ROWS[:1]).mean_cov()
    with pytest.raises(ValueUserError, match=r"\(n, 5\) is due"):
        FeatureStatistics.of(ROWS).update(ROWS[:, :3])
    with pytest.raises(ValueUserError):
        FeatureStatistics().update(ROWS[0])


MEMORY = """
import torch
from fm.metrics import FeatureStatistics
def peak(): return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) / 1024
torch.set_num_threads(1)
rows = torch.rand(8192, 1024)
FeatureStatistics.of(rows[:600]).mean_cov()
before = peak()
FeatureStatistics.of(rows).mean_cov()
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_count_of_rows():
    """In MiB beside the rows: the moments of all 32 blocks at once would take 256, the rows as float64 64."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 200

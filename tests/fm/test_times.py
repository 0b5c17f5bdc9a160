"""Laws of t: their ranges, known quantiles, and strata that do not depend on ranks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fm.errors import SettingsError
from fm.noise import uniforms
from fm.paths import VPPath
from fm.times import LogitNormal, Skewed, Times, Uniform, stratified
from tests.problems import LAWS, by_kind

every_law = pytest.mark.parametrize("law", LAWS, ids=by_kind)


@every_law
def test_times_rise_with_u_and_stay_in_range(law: Times) -> None:
    u = torch.cat([torch.tensor([2.0**-24, 1 - 2.0**-24]), torch.linspace(0.001, 0.999, 500)]).sort().values
    t = law.at(u, VPPath.t_max)
    assert t.dtype == torch.float32
    assert (t.diff() >= 0).all()
    assert t.min() >= 0
    assert t.max() <= torch.tensor(VPPath.t_max)


def test_quantiles() -> None:
    u = torch.tensor([0.5, 0.8413447460685429], dtype=torch.float64)  # the median, and one standard deviation above
    torch.testing.assert_close(Uniform().at(u, 0.5), u / 2)
    expected = [1 / (1 + math.exp(-0.3)), 1 / (1 + math.exp(-0.7))]
    torch.testing.assert_close(LogitNormal(0.3, 0.4).at(u, 1.0), torch.tensor(expected, dtype=torch.float64))
    expected = [1 / (1 + math.exp(-1.2)), 1 / (1 + math.exp(-2.4))]
    torch.testing.assert_close(Skewed().at(u, 1.0), torch.tensor(expected, dtype=torch.float64))


def test_skewed_noise_levels_are_edms() -> None:
    t = Skewed().at(uniforms(0, "t", torch.arange(20_000), ()), 1.0).double()
    logs = ((1 - t) / t).log()
    assert logs.mean().item() == pytest.approx(-1.2, abs=0.04)
    assert logs.std().item() == pytest.approx(1.2, abs=0.03)


@every_law
def test_strata_hold_one_time_each(law: Times) -> None:
    batch = 64
    positions = torch.arange(3 * batch, 4 * batch)
    u = stratified(uniforms(0, "t", positions, ()), positions, batch)
    assert (u * batch).long().tolist() == list(range(batch))
    t = law.at(u, 1.0)
    edges = law.at(torch.arange(1, batch) / batch, 1.0)
    assert torch.bucketize(t, edges).tolist() == list(range(batch))


@settings(max_examples=30, deadline=None)
@given(batch=st.integers(1, 4096), start=st.integers(0, 10**12), split=st.integers(0, 32))
def test_strata_follow_the_position_alone(batch: int, start: int, split: int) -> None:
    positions = torch.arange(start, start + 32)
    u = uniforms(1, "t", positions, ())
    whole = stratified(u, positions, batch)
    parts = [stratified(u[part], positions[part], batch) for part in (slice(0, split), slice(split, None))]
    assert torch.cat(parts).equal(whole)
    assert 0 < whole.min() <= whole.max() < 1


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(SettingsError, match="a batch of 0 images"):
        stratified(torch.rand(2), torch.arange(2), 0)

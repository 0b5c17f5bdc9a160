"""The average against its closed forms."""

import math

import pytest
import torch
from torch import nn

from fm.ema import Ema, PowerEma, Snapshot, averages, combined, decay, gamma_of, in_words
from fm.errors import SettingsError
from fm.parallel import ALONE
from fm.training import Training
from fm.training import check as check_training


def test_after_one_half_life_half_of_the_old_average_is_left() -> None:
    assert decay(2.0, 0.0, 10**9, 100) ** 20 == pytest.approx(0.5, rel=1e-12)


def test_paper_decay_in_kimg() -> None:
    """0.9999 a step is a half-life of 1.77 million images at batch 256."""
    halflife_kimg = 256 * math.log(0.5) / math.log(0.9999) / 1000
    assert halflife_kimg == pytest.approx(1774.4, abs=0.1)
    assert decay(halflife_kimg, 0.0, 0, 256) == pytest.approx(0.9999, rel=1e-12)


def test_ramp_caps_the_half_life_at_a_share_of_the_images_seen() -> None:
    assert decay(500.0, 0.1, 10_000, 100) == decay(1.0, 0.0, 0, 100)
    assert decay(1.0, 0.1, 10**9, 100) == decay(1.0, 0.0, 0, 100)


def test_no_half_life_means_no_average() -> None:
    assert decay(0.0, 0.1, 10**9, 100) == 0.0


def test_a_young_run_averages_by_the_power_function() -> None:
    """While the ramp holds, the state at s weighs (s/t)^gamma in the average at t, gamma + 1 = ln 2 / ramp."""
    model = nn.Linear(1, 1, bias=False)
    ema = Ema(model, halflife_kimg=1e9, ramp=0.1)
    for step in range(1, 2001):
        nn.init.constant_(model.weight, step / 2000)  # the state is s/t itself, so the average is its mean
        ema.update(model, step, 1)
    gamma = math.log(2) / 0.1 - 1
    assert ema.weights["weight"].item() == pytest.approx((gamma + 1) / (gamma + 2), rel=1e-3)


def test_buffers_are_copied_and_the_model_is_left_alone() -> None:
    model = nn.BatchNorm1d(2)
    ema = Ema(model, halflife_kimg=1.0, ramp=0.0)
    model.num_batches_tracked.fill_(7)
    nn.init.constant_(model.weight, 3.0)
    ema.update(model, 500, 500)
    assert ema.weights["num_batches_tracked"] == 7
    torch.testing.assert_close(ema.weights["weight"], torch.full((2,), 1 + 2 * (1 - 0.5**0.5)))
    assert torch.equal(model.weight, torch.full((2,), 3.0))


def test_the_first_average_has_the_plain_name() -> None:
    found = averages(nn.Linear(1, 1), (500.0, 50.0, 0.5), 0.1)
    assert {name: ema.halflife_kimg for name, ema in found.items()} == {
        "ema": 500,
        "ema_50kimg": 50,
        "ema_0.5kimg": 0.5,
    }
    assert in_words(500.0, 0.1, 256) == "half-life 500 kimg, 0.999645 a step from 5000 kimg on"
    assert in_words(500.0, 0.0, 256) == "half-life 500 kimg, 0.999645 a step"


@pytest.mark.parametrize("length", [0.01, 0.05, 0.1, 0.28])
def test_the_length_is_the_standard_deviation_of_the_profile(length: float) -> None:
    gamma = gamma_of(length)
    mean, square = (gamma + 1) / (gamma + 2), (gamma + 1) / (gamma + 3)  # moments of (gamma + 1) t^gamma on 0 to 1
    assert math.sqrt(square - mean**2) == pytest.approx(length, rel=1e-9)


def states(steps: int) -> torch.Tensor:
    """What a weight was after each step: a walk."""
    return torch.randn(steps, generator=torch.Generator().manual_seed(0)).cumsum(0)


def walked(length: float, steps: int) -> float:
    model = nn.Linear(1, 1, bias=False)
    ema = PowerEma(model, length)
    for step, value in enumerate(states(steps).tolist(), start=1):
        nn.init.constant_(model.weight, value)
        ema.update(model, 64 * step, 64)
    return float(ema.weights["weight"])


def test_a_power_average_weighs_each_state_by_its_profile() -> None:
    gamma, steps = gamma_of(0.1), 500
    edges = (torch.arange(steps + 1, dtype=torch.float64) / steps) ** (gamma + 1)
    assert walked(0.1, steps) == pytest.approx(float((edges.diff() * states(steps)).sum()), rel=1e-4)


def test_an_average_of_any_length_is_made_of_those_that_were_kept() -> None:
    """Against the average that would have been kept: nearer than any of those that were."""
    steps, kept = 1000, [(length, step) for length in (0.05, 0.1) for step in range(100, 1001, 100)]
    values = [walked(length, step) for length, step in kept]
    there = [Snapshot(gamma_of(length), step) for length, step in kept]
    for length in (0.03, 0.05, 0.07, 0.15):
        how = combined(there, Snapshot(gamma_of(length), steps))
        assert how.coefficients.sum() == pytest.approx(1, abs=1e-6) and how.error < 0.08
        due, found = walked(length, steps), sum(c * v for c, v in zip(how.coefficients, values, strict=True))
        nearest = min(abs(value - due) for value in (values[9], values[19]))
        assert abs(found - due) < max(0.35 * nearest, 1e-3)
    exact = combined(there, Snapshot(gamma_of(0.1), steps))
    assert exact.error < 1e-9 and exact.coefficients[-1] == pytest.approx(1)
    assert combined(there, Snapshot(gamma_of(0.005), steps)).error > 0.3  # and says what it cannot do


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ema_lengths": (0.05,), "keep_every_images": 10}, "two lengths or more"),
        ({"ema_lengths": (0.05, 0.05), "keep_every_images": 10}, "two lengths or more"),
        ({"ema_lengths": (0.05, 0.1)}, "in checkpoints that are kept, and none is"),
    ],
)
def test_what_no_other_average_could_be_made_of_is_refused(changes: dict, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        check_training(Training(total_images=100, **changes), ALONE)

"""The average against its closed forms."""

import math

import pytest
import torch
from torch import nn

from fm.ema import Ema, averages, decay, in_words


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

"""Reports: sums by time, when they are due, and which loss is past all bounds."""

import math

import pytest
import torch
from torch import nn

from fm.optimizer import Adam
from fm.parallel import ALONE, Gradients
from fm.progress import TENTHS, Clock, Progress, by_tenth, due
from fm.state import State


def clock() -> Clock:
    model = nn.Linear(1, 1)
    return Clock(State(model, Adam(model, Gradients(model, ALONE, {})), {}))


def sums(loss: float, count: int = 4) -> list[float]:
    return by_tenth(torch.full((count,), loss), torch.full((count,), 0.5)).tolist()


def test_losses_are_summed_by_the_tenth_of_their_time() -> None:
    loss, t = torch.rand(1000, dtype=torch.float64), torch.rand(1000)
    t[:3] = torch.tensor([0.0, 1.0, 0.3])
    found = by_tenth(loss, t)
    for tenth in range(TENTHS):
        inside = (t >= tenth / TENTHS) & (t < (tenth + 1) / TENTHS + (tenth == TENTHS - 1))
        assert found[tenth] == pytest.approx(float(loss[inside].sum()), rel=1e-12)
        assert found[TENTHS + tenth] == inside.sum()


def test_a_report_is_the_mean_since_the_last_and_its_row_leaves_out_what_was_not_seen() -> None:
    one = clock()
    assert one.count(sums(1.0)) and one.count(sums(2.0))
    one.state.images_seen = 8
    report = one.report(rate=0.1, norm=2.0)
    assert report.loss == 1.5 and report.loss_by_t[5] == 1.5 and report.loss_by_t[4] is None
    row = report.values()
    assert row["loss_t5"] == 1.5 and "loss_t4" not in row and "loss_by_t" not in row and row["images_seen"] == 8
    assert one.count(sums(4.0)) and one.report(0.1, 2.0).loss == 4.0


@pytest.mark.parametrize(("loss", "good"), [(math.nan, False), (math.inf, False), (1e7, False), (1e3, True)])
def test_a_loss_past_all_bounds_is_not_counted(loss: float, good: bool) -> None:
    one = clock()
    assert one.count(sums(1.0)) and one.count(sums(3.0))
    before = list(one.state.tally["sums"])
    assert one.count(sums(loss)) is good
    assert (one.state.tally["sums"] == before) is not good


def test_the_first_loss_may_be_anything_finite() -> None:
    assert clock().count(sums(1e9)) and clock().count(sums(0.0))


def test_reports_have_plain_values() -> None:
    assert Progress(1, 0.5, 1.0, 0.1, 1.0, 2.0).values() == {
        **{"images_seen": 1, "loss": 0.5, "images_per_s": 1.0, "learning_rate": 0.1, "grad_norm": 1.0, "seconds": 2.0}
    }


def test_due_once_for_each_multiple() -> None:
    assert [n for n in range(10, 101, 10) if due(n, 10, 25)] == [30, 50, 80, 100]

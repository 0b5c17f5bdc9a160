"""Rates by images seen: their ends and corners exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fm.schedules import FLOOR, SCHEDULES, constant, cosine, polynomial


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_warm_up_is_linear_from_the_floor_to_the_peak(schedule) -> None:
    assert schedule(0, 1000, 100, 0.5) == FLOOR
    assert schedule(50, 1000, 100, 0.5) == pytest.approx((FLOOR + 0.5) / 2, rel=1e-12)
    assert schedule(100, 1000, 100, 0.5) == 0.5
    assert schedule(0, 1000, 0, 0.5) == 0.5


def test_after_the_warm_up() -> None:
    assert constant(1000, 1000, 100, 0.5) == 0.5
    assert polynomial(550, 1000, 100, 0.5) == pytest.approx((FLOOR + 0.5) / 2, rel=1e-12)
    assert cosine(550, 1000, 100, 0.5) == pytest.approx((FLOOR + 0.5) / 2, rel=1e-12)
    assert cosine(325, 1000, 100, 1.0) == pytest.approx((1 + 0.5**0.5) / 2, rel=1e-7)
    assert polynomial(1000, 1000, 100, 0.5) == cosine(1000, 1000, 100, 0.5) == FLOOR


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@given(
    seen=st.integers(0, 10**10), total=st.integers(0, 10**10), warmup=st.integers(0, 10**10), peak=st.floats(1e-7, 1)
)
def test_never_outside_floor_and_peak(schedule, seen: int, total: int, warmup: int, peak: float) -> None:
    assert FLOOR <= schedule(seen, total, warmup, peak) <= peak * (1 + 1e-12)

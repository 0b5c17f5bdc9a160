from dataclasses import replace

import pytest

from fm.paper import effort
from fm.paper.claim import NOT_MEASURED, NOT_SHOWN, SHOWN

from .conftest import changed


def test_the_share_of_evaluations_is_exact_on_power_laws():
    """Errors c n^-p against (0.6 n)^-p: 60 % of the evaluations at every level, wherever both reach it."""
    ours = [(n, (n / 0.6) ** -2.0) for n in (4, 8, 16, 32)]
    other = [(n, n**-2.0) for n in (4, 8, 16, 32)]
    assert effort.share(ours, other) == pytest.approx(0.6)
    assert effort.share(other, ours) == pytest.approx(1 / 0.6)


def test_curves_without_a_common_error_have_no_share():
    assert effort.share([(4, 0.1), (8, 0.05)], [(4, 1.0), (8, 0.5)]) is None
    assert effort.share([(4, 0.1)], [(4, 1.0), (8, 0.05)]) is None


def test_evaluations_that_do_not_help_are_left_out_of_a_curve(trained):
    rows = tuple(row | {"solution_error": 9.0} if row["nfe"] == 16 else row for row in trained[0].rows)
    assert [n for n, _ in effort.errors(replace(trained[0], rows=rows), "euler")] == [4, 8, 32]


def test_an_equal_error_at_nearly_as_many_evaluations_is_not_about_60_percent(trained):
    ot = {one.seed: one for one in trained if one.method.key == "fm-ot"}

    def slower(seed):
        swept = [row for row in ot[seed].rows if row.get("solution_error")]
        return tuple(row | {"solution_error": 1.2 * row["solution_error"]} for row in swept)

    found = [replace(one, rows=slower(one.seed)) if one.method.key == "fm-vp" else one for one in trained]
    assert effort.equal_error(found).verdict == NOT_SHOWN and effort.equal_error(trained).verdict == SHOWN


def test_flat_is_flat(trained):
    rising = tuple({"images_seen": seen, "nfe": 60 + 30 * seen, "tolerance": 1e-5} for seen in (1, 2))
    assert effort.flat(changed(trained, "fm-ot", solving=rising)).verdict == NOT_SHOWN
    assert effort.flat(changed(trained, "fm-ot", solving=rising[:1])).verdict == NOT_MEASURED
    coarse = ({"images_seen": 3, "nfe": 5, "tolerance": 1e-2},)
    assert effort.solved(replace(trained[0], solving=rising + coarse)) == [(1, 90), (2, 120)]

from dataclasses import replace

import pytest

from fm.paper import behaviour
from fm.paper.claim import NOT_MEASURED, NOT_SHOWN, SHOWN

from .conftest import changed


def reports(*norms):
    return tuple({"images_seen": 100 * (i + 1), "grad_norm": norm} for i, norm in enumerate(norms))


def test_spreads_are_of_the_last_three_quarters(trained):
    one = replace(trained[0], records=reports(99.0, 1.0, 3.0, 2.0))
    assert behaviour.gradients(one) == pytest.approx((2 / 3) ** 0.5 / 2)
    assert behaviour.losses(one) is None and behaviour.gradients(replace(one, records=())) is None


def test_spreads_do_not_depend_on_the_units_of_a_loss(trained):
    scaled = tuple(
        {k: v * 7 if k.startswith(("loss", "grad")) else v for k, v in r.items()} for r in trained[0].records
    )
    assert behaviour.losses(replace(trained[0], records=scaled)) == pytest.approx(behaviour.losses(trained[0]))


def test_an_unsteady_training_is_not_shown_and_one_without_reports_not_measured(trained):
    assert behaviour.stable(trained).verdict == SHOWN
    assert behaviour.stable(changed(trained, "fm-ot", records=reports(1, 1, 90, 1))).verdict == NOT_SHOWN
    assert behaviour.stable(changed(trained, "fm-ot", records=())).verdict == NOT_MEASURED


def test_ways_that_differ_by_less_than_their_interval_are_not_shown(trained):
    wide = tuple(row | {"way_appears_stderr": 0.2} for row in trained[0].rows)
    found = changed(trained, "fm-ot", rows=wide)
    assert behaviour.early(found).verdict == NOT_SHOWN and behaviour.straight(found).verdict == SHOWN


def test_nobody_turning_back_shows_nothing(trained):
    never = {"way_backtracking": 0.0, "way_backtracking_stderr": 0.0}
    found = [replace(one, rows=tuple(row | never for row in one.rows)) for one in trained]
    assert behaviour.onward(found).verdict == NOT_SHOWN

from dataclasses import replace

import pytest

from fm.paper import behaviour
from fm.paper.claim import NOT_MEASURED, NOT_SHOWN, SHOWN
from fm.paths import OTPath, VPPath

from .conftest import changed, each_row, without


def reports(*norms):
    return tuple({"images_seen": 100 * (i + 1), "grad_norm": norm} for i, norm in enumerate(norms))


def test_spreads_are_of_the_last_three_quarters(trained):
    one = replace(trained[0], records=reports(99.0, 1.0, 3.0, 2.0))
    assert behaviour.gradients(one) == pytest.approx(1.5 / 2**0.5 / 2)
    assert behaviour.losses(one) is None and behaviour.gradients(replace(one, records=())) is None


def test_a_network_that_still_learns_is_no_less_stable_for_it(trained):
    """The trend of the loss is none of the spread; noise from report to report is."""
    falling = replace(trained[0], records=reports(*(10.0 - step / 10 for step in range(40))))
    noisy = replace(trained[0], records=reports(*(1 + 0.1 * (-1) ** step for step in range(40))))
    assert behaviour.gradients(falling) == pytest.approx(0, abs=1e-9)
    assert behaviour.gradients(noisy) == pytest.approx(0.1 * 2**0.5, rel=0.01)
    said = behaviour.stable(trained).test
    assert "the trend of a network that still learns does not count" in said and "before clipping" in said
    assert "Score Matching (scaled) is its training" in said


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
    wide = {"way_appears_without": without(0.4, 0.2, 2)}  # noise of its own, which no pairing removes
    found = each_row(trained, "fm-ot", lambda row: row | wide)
    assert behaviour.early(found).verdict == NOT_SHOWN and behaviour.straight(found).verdict == SHOWN


@pytest.mark.parametrize("key", ["fm-ot", "fm-vp"])
def test_ways_of_a_network_too_stiff_to_solve_are_not_measured(trained, key):
    stiff = each_row(trained, key, lambda row: row | {"solution_error": 0.2} if row["tolerance"] else row)
    for claim in (behaviour.early, behaviour.straight, behaviour.onward):
        assert claim(trained).verdict == SHOWN and claim(stiff).verdict == NOT_MEASURED
        assert "its solutions have not converged" in "".join(claim(stiff).evidence)


def test_what_the_ways_of_two_methods_share_drops_out(trained):
    """Each way is unsure by far more than they differ, but by the same samples."""
    shared = lambda row: row | {"way_appears_without": [row["way_appears"] + w for w in without(0.0, 0.2)]}  # noqa: E731
    assert behaviour.early(each_row(trained, "", shared)).verdict == SHOWN


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"way_appears_without": None}, "its rows lack way_appears_without"),
        ({"noise_digest": "another"}, "of other noise or samples"),
        ({"solution_error_images": 32}, "of other noise or samples"),
    ],
)
def test_ways_that_cannot_be_paired_are_not_measured(trained, change, said):
    claim = behaviour.early(each_row(trained, "fm-ot", lambda row: row | change))
    assert claim.verdict == NOT_MEASURED and said in claim.evidence[0]


def test_what_a_perfect_model_would_show_stands_beside_the_ways(trained):
    assert behaviour.independent(OTPath()) == pytest.approx(0.805, abs=1e-3)
    assert behaviour.independent(VPPath()) == pytest.approx(0.929, abs=1e-3)
    beside = behaviour.early(trained).evidence[-1]
    assert "t = 0.81 on the OT path, 0.93 on the VP path and 0.63 on the VE path" in beside
    assert "FM w/ OT, seed 0, does at 0.40" in beside and "FM w/ VE, seed 1, does at 0.80" in beside
    ot, vp = behaviour.of_gaussian(OTPath()), behaviour.of_gaussian(VPPath())
    assert ot["detour"] == pytest.approx(1.21, abs=0.005) and ot["backtracking"] == pytest.approx(0.1, abs=0.01)
    assert vp["detour"] == pytest.approx(1) and vp["backtracking"] == pytest.approx(0)
    said = "the exact detour is 1.21 for OT, 1.00 for VP and 1.00 for VE"
    assert said in behaviour.straight(trained).test
    assert "the exact backtracking is 0.10 for OT, 0.00 for VP" in behaviour.onward(trained).test


def test_nobody_turning_back_shows_nothing(trained):
    never = {"way_backtracking": 0.0, "way_backtracking_stderr": 0.0, "way_backtracking_without": [0.0] * 10}
    assert behaviour.onward(each_row(trained, "", lambda row: row | never)).verdict == NOT_SHOWN

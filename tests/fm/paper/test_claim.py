from dataclasses import replace

import pytest

from fm.jackknife import half_interval
from fm.paper.claim import (
    NOT_MEASURED,
    NOT_SHOWN,
    SHOWN,
    Finding,
    by_rows,
    contrast,
    counted,
    decided,
    differing,
    doubted,
)
from fm.paper.methods import METHODS
from fm.paper.reading import BASELINES, Form, better, nfe, sampled

from .conftest import FD


@pytest.mark.parametrize(
    ("holds", "verdict"),
    [
        ([True, True], SHOWN),
        ([True, False], NOT_SHOWN),
        ([True, None], NOT_MEASURED),
        ([None, False], NOT_SHOWN),
        ([], NOT_MEASURED),
    ],
)
def test_one_finding_against_a_claim_decides_it(holds, verdict):
    claim = decided("k", "t", "says", "test", [Finding(h, f"{h}") for h in holds], "more")
    assert claim.verdict == verdict and claim.needs == ("" if verdict == SHOWN else "more")
    assert claim.evidence == tuple(map(str, holds))


def test_differences_count_only_outside_their_interval_in_every_seed():
    assert differing("a minus b", {0: (-2.0, 1.0), 1: (-3.0, 1.0)}).holds
    assert differing("a minus b", {0: (-2.0, 1.0), 1: (-0.5, 1.0)}).holds is False
    assert differing("a minus b", {0: (-2.0, 1.0), 1: "not finite"}).holds is None
    said = differing("a minus b", {0: (-2.0, 1.0), 1: (-3.0, 1.0)}).says
    assert said == "a minus b: seed 0: -2 ± 1, seed 1: -3 ± 1; mean -2.5, from -3 to -2"


def test_counts_have_to_differ_in_the_worst_seed(trained):
    ours, other = better(trained, "FM w/ OT", nfe), better(trained, BASELINES[0], nfe)
    assert counted(ours, other, nfe, "NFE").holds and counted(other, ours, nfe, "NFE").holds is False
    assert counted(ours, ours, nfe, "NFE").holds is False


def test_one_seed_decides_no_count(trained):
    alone = [one for one in trained if one.seed == 0]
    finding = counted(better(alone, "FM w/ OT", nfe), better(alone, "DDPM", nfe), nfe, "NFE")
    assert finding.holds is None and finding.says.endswith("one seed says nothing of the chance in the training")


def test_a_missing_form_speaks_for_nothing_but_still_against():
    form = Form(METHODS["scoreflow-raw"], {}, doubt="ScoreFlow (scaled) is missing, which may be the better form")
    for holds, then in ((True, None), (False, False), (None, None)):
        assert doubted(Finding(holds, "a"), form) == Finding(then, f"a; {form.doubt}")
    assert doubted(Finding(True, "a"), replace(form, doubt="")).holds


def test_pairs_are_of_the_same_noise_only(trained):
    by_key = {one.method.key: one for one in trained if one.seed == 0}
    difference, half = by_rows(FD, sampled)(by_key["fm-ot"], by_key["ddpm"])
    assert difference == pytest.approx(-52) and 0 < half < 20  # which alone is each one's half-interval
    assert isinstance(by_rows("kid_x", sampled)(by_key["fm-ot"], by_key["ddpm"]), str)


def test_a_contrast_drops_what_both_share():
    groups = [float(g) for g in range(10)]
    rows = [{"a": 3.0, "a_without": groups}, {"a": 1.0, "a_without": [group + 2 for group in groups]}]
    assert contrast([(1, rows[0], "a"), (-1, rows[1], "a")]) == (2.0, 0.0)
    assert contrast([(1, rows[0], "a")]) == (3.0, half_interval(rows[0]["a_without"]))

from dataclasses import replace

import pytest

from fm.paper import effort
from fm.paper.claim import NOT_MEASURED, NOT_SHOWN, SHOWN

from .conftest import changed, distance, each_row, without


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
    assert effort.equal_error(beside_ot(trained, 1.2)).verdict == NOT_SHOWN
    assert effort.equal_error(trained).verdict == SHOWN


def beside_ot(trained, factor, noise=0.0):
    """The same trainings, diffusion's errors those of OT by a factor, with noise of their own."""
    ot = {one.seed: one.rows for one in trained if one.method.key == "fm-ot"}
    parts = [factor * part for part in without(1.0, noise, 2)]

    def slower(row):
        error = row["solution_error"]
        shared = zip(row["solution_error_without"], parts, strict=True)
        return row | {"solution_error": factor * error, "solution_error_without": [w * part for w, part in shared]}

    rows = {seed: tuple(slower(row) for row in some if row.get("solution_error")) for seed, some in ot.items()}
    return [replace(one, rows=rows[one.seed]) if one.method.key == "fm-vp" else one for one in trained]


def test_the_interval_of_a_ratio_drops_what_both_share_and_keeps_the_rest(trained):
    def euler(found):
        two = [next(one for one in found if one.method.key == key) for key in ("fm-ot", "fm-vp")]
        return effort.ratios(*two)["euler"]

    ratio, low, high = euler(beside_ot(trained, 1.5))
    assert ratio == pytest.approx(1 / 1.5) and low == pytest.approx(high)
    ratio, low, high = euler(beside_ot(trained, 1.5, noise=0.3))
    assert low < 0.5 and high > 1
    assert effort.equal_error(beside_ot(trained, 1.5, noise=0.3)).verdict == NOT_SHOWN


def test_a_ratio_says_whether_60_percent_lie_in_its_interval_and_what_others_got(trained):
    claim = effort.equal_error(trained)
    assert "seed 0: NFE of FM w/ OT by that of FM w/ Diffusion: euler 0.59 (" in claim.evidence[0]
    assert claim.evidence[0].endswith("0.6 lies outside of this interval") and "fewer than 60 % count too" in claim.test
    beside = [line for line in claim.evidence if line.startswith("beside it, seed 1, by that of ")]
    assert [line.split(" of ")[1].split(":")[0] for line in beside] == [
        "DDPM",
        "Score Matching (raw)",
        "ScoreFlow (raw)",
        "ScoreFlow (scaled)",
    ]


def test_errors_without_groups_have_no_interval_and_are_not_measured(trained):
    found = effort.equal_error(each_row(trained, "fm-ot", lambda row: row | {"solution_error_without": None}))
    assert found.verdict == NOT_MEASURED and "its rows lack solution_error_without" in found.evidence[0]
    other = effort.equal_error(each_row(trained, "fm-ot", lambda row: row | {"noise_digest": "another"}))
    assert other.verdict == NOT_MEASURED and "of other noise or samples" in other.evidence[0]


def test_errors_against_solutions_that_have_not_converged_are_none(trained):
    stiff = each_row(trained, "ddpm", lambda row: row | {"solution_error": 0.2} if row["tolerance"] else row)
    ddpm = next(one for one in stiff if one.method.key == "ddpm")
    assert effort.errors(trained[0], "euler") and not effort.errors(ddpm, "euler")
    claim = effort.equal_error(stiff)
    assert claim.verdict == SHOWN  # it is of FM w/ Diffusion; DDPM stands beside it
    assert any("DDPM: " in line and "two fine tolerances lie 0.2 apart" in line for line in claim.evidence)
    stiff = each_row(trained, "fm-vp", lambda row: row | {"solution_error": 0.2} if row["tolerance"] else row)
    assert effort.equal_error(stiff).verdict == NOT_MEASURED


def test_an_error_below_what_two_converged_solutions_differ_by_is_none(trained):
    rough = each_row(trained, "fm-ot", lambda row: row | {"solution_error": 0.003} if row["tolerance"] else row)
    assert [nfe for nfe, _ in effort.errors(trained[0], "rk4")] == [4, 8, 16, 32]
    assert effort.errors(rough[0], "rk4") == effort.errors(trained[0], "rk4")[:1]


def test_flat_says_what_its_evaluations_are_of(trained):
    claim = effort.flat(trained)
    assert "a grid of 16 samples, one joint batch" in claim.test and "for the grid of 16 samples" in claim.evidence[0]


def test_flat_is_flat(trained):
    rising = tuple({"images_seen": seen, "nfe": 60 + 30 * seen, "tolerance": 1e-5} for seen in (1, 2))
    assert effort.flat(changed(trained, "fm-ot", solving=rising)).verdict == NOT_SHOWN
    assert effort.flat(changed(trained, "fm-ot", solving=rising[:1])).verdict == NOT_MEASURED
    coarse = ({"images_seen": 3, "nfe": 5, "tolerance": 1e-2},)
    assert effort.solved(replace(trained[0], solving=rising + coarse)) == [(1, 90), (2, 120)]


def test_evaluations_of_another_batch_or_of_fewer_checkpoints_are_not_compared(trained):
    assert effort.fewest(trained).verdict == SHOWN and effort.flat(trained).verdict == SHOWN
    other = each_row(trained, "fm-ot", lambda row: row | {"batch": 1})
    claim = effort.fewest(other)
    assert claim.verdict == NOT_MEASURED and "were not measured alike" in claim.evidence[0]
    late = [replace(one, solving=one.solving[-2:]) if one.method.key == "fm-ot" else one for one in trained]
    assert effort.flat(late).verdict == NOT_MEASURED


def test_few_steps_are_judged_against_the_form_with_the_better_pictures(trained):
    """A form that is as bad at every budget rises by nothing, and would make OT's rise look large."""
    level = each_row(trained, "scoreflow-raw", lambda row: row | distance(2000.0, 0) if row["samples"] == 256 else row)
    found = effort.few_steps(level)
    about = [line for line in found.evidence if "ScoreFlow (raw)" in line]
    assert found.verdict == SHOWN and about and all(line.startswith("beside it, ") for line in about)


def test_evaluations_above_a_baseline_s_at_any_checkpoint_are_told(trained):
    above = tuple(record | {"nfe": 100} for record in trained[0].solving)
    found = effort.flat(changed(trained, "fm-ot", solving=above))
    line = next(line for line in found.evidence if "more evaluations than FM w/ Diffusion" in line)
    assert found.verdict == NOT_SHOWN and "at 20,032, 40,064 of 4; FM w/ Diffusion: 82, 99, 116, 133 for" in line

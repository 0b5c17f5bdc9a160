from dataclasses import replace

import pytest

from fm.paper import reading
from fm.paper.methods import DIFFUSION, METHODS, OT

from .conftest import FD, changed, each_row


@pytest.fixture
def ot(trained):
    return trained[0]


def test_table_1_reads_dopri5_at_its_finest_tolerance_and_bits_where_they_are(ot):
    assert (reading.sampled(ot).tolerance, reading.sampled(ot).samples) == (1e-5, 256)
    assert (reading.scored(ot).tolerance, reading.scored(ot).samples) == (1e-4, 20)
    assert reading.nfe(ot) == 68 and reading.bits(ot) == 4.0 and reading.distance(FD)(ot) == 400
    assert [cell.nfe for cell in reading.swept(ot, "rk4")] == [4, 8, 16, 32]


def test_failed_rows_and_those_of_samples_alone_in_their_steps_do_not_count(ot):
    failed = replace(ot, rows=tuple(row | {"failed": "no"} if row["tolerance"] == 1e-5 else row for row in ot.rows))
    assert reading.nfe(failed) is None
    own = replace(ot, rows=tuple(row | {"control": "per_sample"} if row["tolerance"] else row for row in ot.rows))
    assert reading.sampled(own) is None and reading.nfe(own) is None


def test_the_better_form_is_that_of_the_lower_value(trained):
    assert reading.better(trained, "ScoreFlow", reading.nfe).title == "ScoreFlow (scaled)"
    form = reading.better(trained, "Score Matching", reading.nfe)  # scaled: DDPM's training
    assert form.title == "Score Matching (scaled)" and form.trained[0].method.key == "ddpm"
    assert reading.better(trained, "ScoreFlow", lambda one: -reading.nfe(one)).title == "ScoreFlow (raw)"


def test_a_form_without_values_gives_way_to_the_other(trained):
    lost = changed(trained, "scoreflow-scaled", rows=(), failed="diverged")
    assert reading.better(lost, "ScoreFlow", reading.nfe).title == "ScoreFlow (raw)"
    lost = changed(lost, "scoreflow-raw", rows=(), failed="diverged too")
    form = reading.better(lost, "ScoreFlow", reading.nfe)
    assert not form.trained and "diverged too" in form.lacks and "ScoreFlow (scaled), seed 0: diverged" in form.lacks


def test_a_form_that_is_missing_is_in_doubt_and_that_of_ddpm_may_be_trained_by_itself(trained):
    assert reading.better(trained, "ScoreFlow", reading.nfe).doubt == ""
    raw = [one for one in trained if one.method.key != "scoreflow-scaled"]
    doubt = reading.better(raw, "ScoreFlow", reading.nfe).doubt
    assert doubt == "ScoreFlow (scaled) was not trained, and may be the better form"
    own = [replace(one, method=METHODS["score-matching-scaled"]) for one in trained if one.method.key == "ddpm"]
    form = reading.better([one for one in trained if one.method.key != "ddpm"] + own, "Score Matching", reading.nfe)
    assert form.title == "Score Matching (scaled)" and not form.doubt


def test_a_form_that_draws_no_images_gives_way_to_one_that_does(trained):
    outside = {"samples_outside": 0.9}
    blank = each_row(trained, "scoreflow-scaled", lambda row: row | outside)
    assert reading.better(blank, "ScoreFlow", reading.nfe).title == "ScoreFlow (scaled)"
    form = reading.better(blank, "ScoreFlow", reading.nfe, pictures=True)
    assert form.title == "ScoreFlow (raw)" and not form.doubt
    blank = each_row(blank, "scoreflow-raw", lambda row: row | outside)
    lacks = reading.better(blank, "ScoreFlow", reading.nfe, pictures=True).lacks
    assert lacks.count("draws no images at this size (90 % of its values") == 2
    untold = each_row(trained, "", lambda row: {k: v for k, v in row.items() if k != "samples_outside"})
    assert reading.better(untold, "ScoreFlow", reading.nfe, pictures=True).title == "ScoreFlow (scaled)"


def test_baselines_are_the_published_methods_but_ot():
    assert set(reading.BASELINES) == {"DDPM", "Score Matching", "ScoreFlow", DIFFUSION} and OT not in reading.BASELINES


def test_the_distance_is_the_first_by_name_and_fid_only_with_inception(trained):
    assert reading.distance_name(trained) == FD and reading.distance_name([]) == ""
    assert reading.is_fid("fd_inception_x") and not reading.is_fid(FD)


def adrift(row):
    """The finest solution that is not the converged one lies far from it, as on a stiff network."""
    return row | {"solution_error": 0.25} if row["tolerance"] == 1e-5 else row


def test_solutions_that_no_other_fine_one_agrees_with_have_no_value(trained):
    value = reading.OfSolutions(lambda one: 1.0)
    assert reading.better(trained, "ScoreFlow", value).trained and not reading.adrift(trained[0])
    stiff = each_row(trained, "scoreflow-raw", adrift)
    form = reading.better(stiff, "ScoreFlow", value)
    assert form.title == "ScoreFlow (scaled)" and "tolerances lie 0.25 apart, and may be the better form" in form.doubt
    form = reading.better(each_row(stiff, "scoreflow-scaled", adrift), "ScoreFlow", value)
    assert (
        "ScoreFlow (raw), seed 1: its solutions have not converged: those of two fine tolerances lie 0.25" in form.lacks
    )


def test_a_coarse_row_does_not_stand_in_for_a_failed_fine_one_and_no_solution_is_none(trained):
    def lost(row):
        return row | {"solution_error": None, "failed": "no"} if row["tolerance"] == 1e-5 else row

    value = reading.OfSolutions(lambda one: 1.0)
    assert "nothing shows" in reading.better(each_row(trained, "fm-ot", lost), OT, value).lacks
    unsolved = each_row(trained, "fm-ot", lambda row: row | {"solution_failed": "the step size vanished"})
    assert "no converged solutions: the step size vanished" in reading.better(unsolved, OT, value).lacks


def test_without_an_adaptive_solver_nothing_shows_that_solutions_have_converged(trained):
    fixed = each_row(trained, "", lambda row: row | {"solution_error": None} if row["tolerance"] else row)
    form = reading.better(fixed, OT, reading.OfSolutions(lambda one: 1.0))
    assert "nothing shows that its solutions have converged" in form.lacks and reading.nfe(fixed[0]) == 68

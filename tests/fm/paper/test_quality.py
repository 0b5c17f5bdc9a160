from dataclasses import replace

import pytest

from fm.paper import quality
from fm.paper.claim import NOT_MEASURED, NOT_SHOWN, SHOWN

from .conftest import FD, SEEN, changed, each_row, swapped, without


def test_a_distance_within_its_interval_is_not_shown(trained):
    """As low, but of noise of its own that no pairing removes."""

    def unsure(row):
        noisy = {f"{FD}_without": without(row[FD], 60, 2)} if FD in row else {}
        return row | noisy

    found = [replace(one, rows=tuple(map(unsure, one.rows))) if one.method.key == "fm-ot" else one for one in trained]
    assert quality.best_distance(found).verdict == NOT_SHOWN
    assert quality.best_distance(trained).verdict == SHOWN


def test_the_opposite_is_told_where_each_seed_shows_it(trained):
    worse = quality.best_distance(swapped(trained, "fm-ot", "score-matching-raw"))
    assert worse.verdict == NOT_SHOWN and "FM w/ OT minus DDPM" in worse.evidence[0]
    assert worse.evidence[0].endswith("; the opposite, in each seed")
    assert not any("opposite" in line for line in quality.best_distance(trained).evidence)


def test_what_has_not_converged_is_told_so(trained):
    rows = {"bits_per_dim": None, "nll_converged": False}
    lost = each_row(trained, "ddpm", lambda row: row | (rows if row["nll_converged"] else {}))
    told = next(line for line in quality.best_bits(lost).evidence if "DDPM" in line)
    assert told == "DDPM, seed 0: has not converged; DDPM, seed 1: has not converged"


def test_distances_of_other_noise_are_not_compared(trained):
    rows = tuple(row | {"noise_digest": "other"} for row in trained[0].rows)
    claim = quality.best_distance(changed(trained, "fm-ot", rows=rows))
    assert claim.verdict == NOT_MEASURED and any("drawn from other noise" in line for line in claim.evidence)


def test_what_is_measured_along_the_training_says_that_the_solver_errs_too(trained):
    said = quality.faster(trained).test
    assert "at each kept checkpoint (midpoint 16)" in said and "the solver's error is part of the distance" in said


def test_a_checkpoint_of_other_noise_leaves_the_course_open(trained):
    """However far it lies: what cannot be paired is no sign that nothing is worse."""
    assert quality.faster(trained).verdict == SHOWN

    def other(row):
        return row | ({"noise_digest": "m", FD: 9000.0} if row["images_seen"] == SEEN[0] else {})

    claim = quality.faster(each_row(trained, "fm-ot", other, "along"))
    assert claim.verdict == NOT_MEASURED and "checkpoints were not measured alike" in claim.evidence[0]


def test_one_checkpoint_is_no_course(trained):
    assert quality.faster(changed(trained, "fm-ot", along=trained[0].along[-1:])).verdict == NOT_MEASURED


def test_as_good_only_at_the_end_is_not_faster(trained):
    def late(row, seed):
        early = {FD: 5000.0, f"{FD}_without": without(5000.0, 3, seed)}
        return row | early if row["images_seen"] < 80_000 else row

    found = [
        replace(one, along=tuple(late(row, one.seed) for row in one.along)) if one.method.key == "fm-ot" else one
        for one in trained
    ]
    claim = quality.faster(found)
    said = "never below its final 682 before the last checkpoint; above it at 20,032, 40,064, 60,096"
    assert claim.verdict == NOT_SHOWN and said in claim.evidence[0]


def test_the_difference_of_gaps_is_paired(trained):
    by_key = {one.method.key: one for one in trained if one.seed == 0}
    difference, half = quality.gap_difference(by_key["fm-ot"], by_key["fm-vp"])
    assert difference == pytest.approx(-1 / 15) and half < 0.07  # the standard error of either gap alone


def test_bits_of_no_training_images_leave_generalisation_open(trained):
    bare = {"bits_per_dim_train": None, "generalisation_gap": None}
    found = [replace(one, rows=tuple(row | bare for row in one.rows)) for one in trained]
    assert quality.generalising(found).verdict == NOT_MEASURED and quality.best_bits(found).verdict == SHOWN

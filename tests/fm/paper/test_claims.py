from dataclasses import replace

import pytest

from fm.paper.claim import NOT_MEASURED, NOT_SHOWN, SHOWN
from fm.paper.claims import CLAIMS, MORE_SEEDS, claims
from fm.paper.plan import planned
from tests.benchmarks.paper_mini import kept

from .conftest import changed, each_row, swapped

PLAN = planned("photos")


def verdicts(trained):
    return {claim.key: claim.verdict for claim in claims(PLAN, trained)}


def test_what_the_paper_found_is_shown(trained):
    found = claims(PLAN, trained)
    assert {claim.key: claim.verdict for claim in found} == dict.fromkeys([claim.key for claim in found], SHOWN)
    assert len({claim.key for claim in found}) == len(CLAIMS) == 12
    assert all(claim.says and claim.test and claim.evidence and not claim.needs for claim in found)


@pytest.mark.parametrize("other", ["score-matching-raw", "fm-vp"])
def test_two_methods_swapped_show_nothing(trained, other):
    """`stability` is of both FM methods, so only a swap with a score method turns it."""
    found = verdicts(swapped(trained, "fm-ot", other))
    kept = {"stability"} if other == "fm-vp" else set()
    assert {key for key, verdict in found.items() if verdict != NOT_SHOWN} == kept


def test_a_claim_that_is_not_shown_says_what_it_would_need(trained):
    assert all(claim.needs for claim in claims(PLAN, swapped(trained, "fm-ot", "score-matching-raw")))


def test_one_seed_against_it_is_enough(trained):
    other = swapped(trained, "fm-ot", "score-matching-raw")
    mixed = [two if two.seed == 1 else one for one, two in zip(trained, other, strict=True)]
    assert set(verdicts(mixed).values()) == {NOT_SHOWN}


def test_a_method_that_was_not_trained_leaves_claims_open(trained):
    found = claims(PLAN, [one for one in trained if one.method.key != "fm-vp"])
    open_claims = [claim for claim in found if claim.verdict == NOT_MEASURED]
    assert {"distance", "nll", "nfe", "error", "along"} < {claim.key for claim in open_claims}
    assert all(any("FM w/ Diffusion was not trained" in line for line in c.evidence) for c in open_claims)


def test_nothing_at_all_is_not_measured():
    assert set(verdicts([]).values()) == {NOT_MEASURED}


def test_a_failed_training_is_named(trained):
    empty = {"rows": (), "along": (), "records": (), "solving": ()}
    found = claims(PLAN, changed(trained, "ddpm", **empty, failed="loss is not finite"))
    nll = next(claim for claim in found if claim.key == "nll")
    assert nll.verdict == NOT_MEASURED and any("DDPM, seed 0: loss is not finite" in line for line in nll.evidence)


def test_one_seed_leaves_what_has_no_interval_of_its_own_open(trained):
    found = verdicts([one for one in trained if one.seed == 0])
    assert {key for key, verdict in found.items() if verdict == NOT_MEASURED} == {"nfe", "stability", "solving"}
    assert set(found.values()) == {SHOWN, NOT_MEASURED}


def test_a_baseline_without_its_other_form_shows_nothing(trained):
    found = claims(PLAN, [one for one in trained if one.method.key != "scoreflow-scaled"])
    said = "ScoreFlow (scaled) was not trained, and may be the better form"
    assert {claim.key for claim in found if claim.verdict == SHOWN} == {"error"}  # of other baselines
    assert all(any(said in line for line in claim.evidence) for claim in found if claim.verdict == NOT_MEASURED)


@pytest.mark.parametrize("key", ["ddpm", "fm-ot"])
def test_what_draws_no_images_decides_no_distance(trained, key):
    blank = each_row(trained, key, lambda row: row | {"samples_outside": 0.914} if row["tolerance"] == 1e-5 else row)
    found = claims(PLAN, blank)
    assert {claim.key for claim in found if claim.verdict == NOT_MEASURED} == {"distance", "low-nfe", "along"}
    said = "seed 0: draws no images at this size (91 % of its values lie outside of those of a picture)"
    assert all(any(said in line for line in c.evidence) for c in found if c.verdict == NOT_MEASURED)


def test_bits_that_have_not_converged_are_not_measured(trained):
    lost = [
        replace(
            one,
            rows=tuple(
                r | {"bits_per_dim": None, "nll_converged": False} if r["nll_converged"] else r for r in one.rows
            ),
        )
        if one.method.key == "fm-ot"
        else one
        for one in trained
    ]
    assert verdicts(lost)["nll"] == NOT_MEASURED and verdicts(lost)["distance"] == SHOWN


def test_the_extra_row_decides_nothing(trained):
    """FM w/ VE with OT's own rows would tie in every claim."""
    assert set(verdicts(changed(trained, "fm-ve", rows=trained[0].rows)).values()) == {SHOWN}


def test_emoji_decide_no_claim_on_bits(trained):
    found = {claim.key: claim for claim in claims(planned("emoji64"), trained)}
    assert {key for key, claim in found.items() if claim.verdict != SHOWN} == {"nll", "generalisation"}
    assert "pure white" in found["nll"].evidence[0] and found["nll"].needs == "the data set photos"


def test_the_paper_s_own_scale_is_not_sent_to_the_paper_s_scale(trained):
    other = swapped(trained, "fm-ot", "score-matching-raw")
    assert {claim.needs for claim in claims(planned("cifar10", "full"), other)} == {MORE_SEEDS}


@pytest.mark.parametrize("section", kept.SECTIONS)
def test_what_the_benchmarks_say_follows_from_the_tables_beside_it(section):
    found, page = kept.recomputed(section), kept.told(section)["claims"]
    assert [(c.key, c.verdict, [*c.evidence]) for c in found] == [(c["key"], c["verdict"], c["evidence"]) for c in page]
    assert SHOWN in {claim.verdict for claim in found}
    assert SHOWN not in {claim.verdict for claim in kept.recomputed(section, "FM w/ OT", "Score Matching (raw)")}

from dataclasses import replace

from fm.paper.claim import NOT_MEASURED, NOT_SHOWN, SHOWN
from fm.superres.claims import claims


def verdicts(trained, answers):
    return {claim.key: claim.verdict for claim in claims(trained, answers)}


def swapped(trained, one, other):
    """All that stands of two methods changed for each other's."""
    taken, to = {(t.method.key, t.seed): t for t in trained}, {one: other, other: one}
    return [replace(taken[to.get(t.method.key, t.method.key), t.seed], method=t.method) for t in trained]


def test_what_the_paper_found_is_shown(trained, answers):
    assert set(verdicts(trained, answers).values()) == {SHOWN} and len(verdicts(trained, answers)) == 6


def test_swapped_folders_show_nothing_of_what_they_are_compared_by(trained, answers):
    found = verdicts(swapped(trained, "regression", "fm-ot"), answers)
    assert SHOWN not in (found["psnr"], found["distance"], found["sr3"], found["nfe"])
    found = verdicts(swapped(trained, "sr3", "fm-ot"), answers)
    assert (found["sr3"], found["nfe"]) == (NOT_SHOWN,) * 2 and found["distance"] == SHOWN


def test_one_seed_against_it_is_enough(trained, answers):
    other = swapped(trained, "sr3", "fm-ot")
    mixed = [two if two.seed == 1 else one for one, two in zip(trained, other, strict=True)]
    assert verdicts(mixed, answers)["sr3"] == NOT_SHOWN


def test_what_is_missing_leaves_claims_open(trained, answers):
    found = verdicts([one for one in trained if one.method.key != "sr3"], None)
    kinds = (found["psnr"], found["sr3"], found["nfe"], found["varied"], found["distance"])
    assert kinds == (NOT_MEASURED, NOT_MEASURED, NOT_MEASURED, NOT_MEASURED, SHOWN)
    assert set(verdicts([], None).values()) == {NOT_MEASURED}


def test_answers_that_are_all_the_same_or_far_from_the_small_picture_are_said(trained, answers):
    same = replace(answers, varied=answers.varied[:1].expand(3, *answers.varied.shape[1:]))
    assert verdicts(trained, same)["varied"] == NOT_SHOWN
    far = [
        replace(t, rows=tuple(row | {"low_psnr": 30.2, "low_psnr_without": [30.2, 29.0] * 5} for row in t.rows))
        for t in trained
    ]
    assert verdicts(far, answers)["consistent"] == NOT_SHOWN
    needs = [claim.needs for claim in claims(far, same) if claim.verdict == NOT_SHOWN]
    assert all(needs) and len(needs) == 2


def test_rows_that_are_not_of_the_same_pairs_are_not_compared(trained, answers):
    for other in (
        {"samples_not_finite": 3},
        {"noise_digest": "m"},
        {"features_weights": "v"},
        {"reference_split": "training"},
    ):
        mixed = [replace(t, rows=tuple(row | other for row in t.rows)) if t.method.key == "sr3" else t for t in trained]
        assert verdicts(mixed, answers)["sr3"] == NOT_MEASURED, other


def test_one_seed_leaves_what_has_no_interval_open(trained, answers):
    found = verdicts([one for one in trained if one.seed == 0], answers)
    assert {key for key, verdict in found.items() if verdict == NOT_MEASURED} == {"nfe"}


def test_answers_of_another_method_say_nothing_of_flow_matching(trained, answers):
    assert verdicts(trained, replace(answers, varied=None))["varied"] == NOT_MEASURED

from statistics import fmean

import pytest

from fm.estimating.parts import EXPECTED_NFE
from fm.objectives import OBJECTIVES
from fm.paper.methods import DATASETS, METHODS, NLL_K1, OT, TABLE_1, K
from fm.presets import names


def test_every_method_is_of_a_known_objective_and_has_a_name_of_its_own():
    assert len({method.title for method in METHODS.values()}) == len(METHODS)
    assert {method.objective for method in METHODS.values()} <= OBJECTIVES.keys()
    assert METHODS["score-matching-raw"].title == "Score Matching (raw)" and METHODS["fm-ot"].title == OT


def test_a_repetition_is_of_a_method_that_is_trained():
    repeated = [method for method in METHODS.values() if method.same_as]
    assert repeated and all(not METHODS[method.same_as].same_as for method in repeated)


@pytest.mark.parametrize("key", ["cifar10", "imagenet32", "imagenet64"])
def test_published_figures_are_of_all_five_methods_and_ot_is_the_best(key):
    known = {method.name for method in METHODS.values() if method.published}
    assert TABLE_1[key].keys() == NLL_K1[key].keys() == known and key in K
    for kind in ("nll", "fid", "nfe"):
        assert min(TABLE_1[key], key=lambda name: getattr(TABLE_1[key][name], kind)) == OT
    assert all(NLL_K1[key][name] > TABLE_1[key][name].nll for name in known)


def test_data_sets_start_from_presets_that_are_there():
    assert {one.preset for one in DATASETS.values()} <= set(names()) and TABLE_1.keys() < DATASETS.keys()


def test_the_evaluations_that_an_estimate_assumes_are_the_published_means():
    full = [TABLE_1[key] for key in ("cifar10", "imagenet32", "imagenet64")]
    assert {name: round(fmean(figures[name].nfe for figures in full)) for name in full[0]} == EXPECTED_NFE

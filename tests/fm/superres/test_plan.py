import pytest

from fm.errors import SettingsError
from fm.lineage import differences
from fm.superres.plan import DATASETS, METHODS, PUBLISHED, REGRESSION, planned


@pytest.mark.parametrize("dataset", DATASETS)
def test_only_objective_and_path_differ_and_what_regression_cannot_be_asked(dataset):
    plan = planned(dataset, seeds=2)
    assert [member.folder for member in plan.members][:4] == [
        "regression-seed0",
        "sr3-seed0",
        "fm-ot-seed0",
        "regression-seed1",
    ]
    for member in plan.members:
        member.recipe.check(2)
        assert member.recipe.super_resolution and member.recipe.data.low_size * 4 == member.recipe.data.size
    ot, others = plan.members[2].recipe, plan.members[:2]
    told = {
        part.split(" ")[0].split(".")[0]
        for m in others
        for part in differences(ot.training_values(), m.recipe.training_values())
    }
    assert told == {"objective", "path"}
    assert [cell.nfe for cell in plan.members[0].recipe.evaluation.grid] == [1]
    assert plan.scale == ("full" if dataset == "imagenet" else "mini")


def test_changes_reach_every_recipe_but_not_what_is_compared():
    plan = planned("photos", methods=["fm-ot"], changes=["training.total_images=128"])
    assert [member.recipe.training.total_images for member in plan.members] == [128]
    for change in (
        "path=vp",
        "objective=regression",
        "training.seed=3",
        "super_resolution=false",
        "evaluation.reference_split=heldout",
    ):
        with pytest.raises(SettingsError, match="is what the comparison decides"):
            planned("photos", changes=[change])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"dataset": "photo"}, "--dataset: unknown data set 'photo'; did you mean 'photos'"),
        ({"dataset": "photos", "methods": ["sr4"]}, "--methods: unknown method 'sr4'; did you mean 'sr3'"),
        ({"dataset": "photos", "seeds": 0}, "--seeds: 0 is no number of seeds"),
        ({"dataset": "photos", "changes": ["training.coupling=minibatch_ot"]}, "across small pictures"),
    ],
)
def test_what_is_unknown_is_said(given, says):
    with pytest.raises(SettingsError, match=says):
        for member in planned(**given).members:
            member.recipe.check()


def test_the_published_figures_stand_by_method():
    assert PUBLISHED[REGRESSION] == (15.2, 121.1, 27.9, 0.801)
    assert {method.name for method in METHODS.values()} < PUBLISHED.keys()

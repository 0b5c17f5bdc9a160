from types import SimpleNamespace

import pytest

from fm.errors import DataError, SettingsError
from fm.lineage import differences
from fm.paper.methods import METHODS
from fm.paper.plan import check_data, differing, members_in, planned


def manifest(train, test, size=32, classes=10, source="cifar10:archive", method="box"):
    splits = {name: SimpleNamespace(images=count) for name, count in (("train", train), ("test", test))}
    names = tuple(map(str, range(classes)))
    settings = SimpleNamespace(method=method, low_size=None)
    return SimpleNamespace(splits=splits, shape=(3, size, size), classes=names, source=source, settings=settings)


@pytest.mark.parametrize(("dataset", "scale"), [("photos", "mini"), ("emoji64", "mini"), ("cifar10", "full")])
def test_recipes_differ_in_nothing_but_path_objective_and_seed(dataset, scale):
    members = planned(dataset, scale).members
    first = members[0].recipe.model_dump(mode="json")
    keys = {d.split()[0] for one in members for d in differences(first, one.recipe.model_dump(mode="json"))}
    assert {key.partition(".")[0] for key in keys} == {"path", "objective", "training"}
    assert {key for key in keys if key.startswith("training")} == {"training.seed"}


def test_each_seed_trains_each_method_once_and_repetitions_never():
    plan = planned("photos", seeds=3)
    assert len(plan.members) == 3 * (len(METHODS) - 1) and len(plan.methods) == len(METHODS)
    assert len({member.folder for member in plan.members}) == len(plan.members)
    assert [member.seed for member in plan.members] == sorted(member.seed for member in plan.members)
    assert plan.name == "photos-mini" == plan.recipe.name


def test_a_repetition_alone_trains_what_it_repeats():
    plan = planned("photos", methods=["score-matching-scaled", "fm-ot"], seeds=1)
    assert [member.method.key for member in plan.members] == ["ddpm", "fm-ot"]


def test_changes_are_of_every_recipe():
    plan = planned("photos", seeds=1, changes=["training.total_images=6400"])
    assert {member.recipe.training.total_images for member in plan.members} == {6400}


def test_the_full_scale_sweeps_solvers_and_keeps_checkpoints():
    recipe = planned("cifar10", "full", seeds=1).recipe
    assert {point.solver for point in recipe.evaluation.grid} == {"euler", "midpoint", "rk4", "dopri5"}
    assert recipe.training.keep_every_images and recipe.evaluation.along


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"dataset": "cifar"}, "did you mean 'cifar10'"),
        ({"dataset": "photos", "scale": "fulll"}, "did you mean 'full'"),
        ({"dataset": "photos", "methods": ["fm-to"]}, "did you mean 'fm-ot'"),
        ({"dataset": "photos", "seeds": 0}, "--seeds: 0 is no number of seeds"),
        ({"dataset": "photos", "changes": ["training.batch=3"]}, "no such setting 'training.batch'"),
    ],
)
def test_what_is_unknown_is_refused_with_the_nearest(asked, said):
    with pytest.raises(SettingsError, match=said.replace("(", r"\(")):
        planned(**asked)


def test_published_counts_and_classes_are_told_from_others():
    cifar, imagenet = planned("cifar10", seeds=1), planned("imagenet32", "full", seeds=1)
    assert not differing(cifar, manifest(50_000, 10_000))
    for classes in (0, 100):
        found = differing(cifar, manifest(50_000, 10_000, classes=classes))
        assert f"has {classes} classes, where CIFAR-10 has 10" in found
    assert "the older downsampled ImageNet of 49,999" in differing(imagenet, manifest(1_281_149, 49_999, classes=0))
    assert "older" not in differing(cifar, manifest(1_281_149, 49_999))
    assert "holds 4,000 train, 1,000 test images" in differing(cifar, manifest(4_000, 1_000))


def test_pictures_that_were_resized_otherwise_are_other_data():
    full, mini = (planned("imagenet64", scale, seeds=1) for scale in ("full", "mini"))
    official = manifest(1_281_167, 50_000, 64, 1000)
    assert not differing(full, official)
    other = manifest(1_281_167, 50_000, 64, 1000, method="lanczos")
    assert differing(full, other) == "was resized by lanczos, where ImageNet 64 is by box"
    assert not differing(mini, other)  # of another size by design


def test_data_without_published_counts_are_known_by_their_source():
    photos = planned("photos")
    assert not differing(photos, manifest(7, 3, source="photos:?tiles=9"))
    assert differing(photos, manifest(7, 3, source="emoji:x")) == "was prepared from emoji:x, not from photos:"


def test_what_the_comparison_decides_cannot_be_changed():
    for change in ("path=ve", "path.beta_min=0.2", "objective=flow_matching", "training.seed=7", "name=x"):
        with pytest.raises(SettingsError, match="is what the comparison decides; choose by --methods and --seeds"):
            planned("photos", changes=[change])


def test_a_method_named_twice_counts_once():
    assert [method.key for method in planned("photos", methods=["fm-ot", "fm-ot"]).methods] == ["fm-ot"]


@pytest.mark.parametrize("dataset", ["cifar10", "imagenet32", "imagenet64", "imagenet128"])
def test_the_full_scale_measures_what_the_paper_measured(dataset):
    evaluation = planned(dataset, "full", seeds=1).recipe.evaluation
    assert (evaluation.features, evaluation.reference_split) == ("inception_legacy_tensorflow", "training")
    assert evaluation.nll_probe == "both" and evaluation.error_images == 256 and evaluation.nll_training_images
    scored = [point for point in evaluation.grid if point.nll_images]
    assert [(point.solver, point.tolerance) for point in scored] == [("dopri5", 1e-5)]
    assert evaluation.along.solver == "dopri5" and evaluation.samples == 50_000


def test_other_data_are_refused_unless_allowed_and_then_marked():
    plan = planned("cifar10", seeds=1)
    with pytest.raises(DataError, match=r"runs/data: holds 9 train.*--allow-different-data"):
        check_data(plan, manifest(9, 1), "runs/data", allowed=False)
    assert check_data(plan, manifest(9, 1), "runs/data", allowed=True).startswith("holds 9 train")
    assert check_data(plan, manifest(50_000, 10_000), "runs/data", allowed=False) == ""


def test_pictures_of_another_size_are_refused_whatever_is_allowed():
    with pytest.raises(DataError, match="of 64 px"):
        check_data(planned("photos"), manifest(9, 1, 64, source="photos:"), "runs/data", allowed=True)


def test_members_are_found_by_the_names_that_a_plan_gives_them(tmp_path) -> None:
    names = sorted(member.folder for member in planned("photos").members)
    for name in [*names, "other-seed0", "fm-ot-seedling", "fm-ot"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.json").touch()
    (tmp_path / "fm-ot-seed9").mkdir()
    (tmp_path / "fm-ot-seed8").symlink_to(tmp_path / names[0])
    assert [path.name for path in members_in(tmp_path)] == names

"""Reflow's pairs are numbers: image i is what noise i flows to, wherever it was drawn, and is trained on with it."""

from pathlib import Path
from typing import Any

import pytest
import torch

import fm
from fm import noise
from fm.checkpoints import newest
from fm.data import Preparation, ShardedImages, batches, open_source, write_shards
from fm.drawing import DRAWN, drawn
from fm.errors import SettingsError
from fm.files import write_json
from fm.lineage import differences
from fm.objectives import objective
from fm.parallel import ALONE
from fm.recipe import Recipe
from fm.reflow import BATCH, drawing_weights, student
from fm.training import check
from tests.fm.test_side_by_side import pictures
from tests.trainings import train_here

SHORT = ["training.total_images=64", "training.save_images=64"]
SETTINGS = Preparation(size=16, holdout=0.3, shard_images=50)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reflow")
    write_shards(open_source(str(pictures(root / "pictures"))), root / "data", SETTINGS)
    return train_here(root / "run", root / "data", Recipe.load("tiny", SHORT))


def weights_of(run: Path) -> str:
    saved = newest(run)
    assert saved is not None
    return saved.weights


def test_image_i_is_what_noise_i_flows_to_and_is_trained_on_with_it(teacher: Path, tmp_path: Path) -> None:
    weights = weights_of(teacher)
    own, changes = Recipe.load(teacher), ["training.seed=7"]
    recipe, source = student(own, str(teacher), weights, 70, tolerance=1e-2, changes=changes)
    manifest = write_shards(source, tmp_path / "drawn", SETTINGS)
    assert {name: split.images for name, split in manifest.splits.items()} == {"train": 70}
    assert [shard.images for shard in manifest.splits["train"].shards] == [50, 20]
    images = ShardedImages(tmp_path / "drawn", "train")
    flow = fm.load(teacher)
    for first in (0, BATCH):
        numbers = torch.arange(first, first + BATCH)
        z = noise.draws(7, DRAWN, numbers, flow.shape)
        due = flow.decode(flow.path.sample_source(z), rtol=1e-2, atol=1e-2)[: 70 - first]
        there = torch.from_numpy(images.gather(numbers[: len(due)].numpy())).permute(0, 3, 1, 2)
        assert torch.equal(there, due)
    batch = next(batches(images, 8, seed=7))
    assert not torch.equal(batch.indices, batch.positions)
    model, _ = recipe.build(manifest.shape, None)
    _, told = drawn(batch, slice(2, 5), model, objective("flow_matching")(recipe.path), recipe.training)
    assert torch.equal(told["z"], noise.draws(7, DRAWN, batch.indices[2:5], flow.shape))


def test_a_class_conditional_network_draws_each_image_with_a_class_of_its_own(tmp_path: Path) -> None:
    several = pictures(tmp_path / "pictures")
    (several / "two").mkdir()
    for i in range(20):
        (several / "one" / f"{i}.png").rename(several / "two" / f"{i}.png")
    real = write_shards(open_source(str(several)), tmp_path / "data", SETTINGS)
    teacher = train_here(tmp_path / "run", tmp_path / "data", Recipe.load("tiny", [*SHORT, "class_conditional=true"]))
    frequencies = dict(zip(real.classes, real.splits["train"].class_images, strict=True)) | {"unseen": 0}
    recipe, source = student(
        Recipe.load(teacher), str(teacher), weights_of(teacher), 70, tolerance=1e-2, frequencies=frequencies
    )
    manifest = write_shards(source, tmp_path / "drawn", SETTINGS)
    assert recipe.class_conditional and manifest.classes == ("one", "two", "unseen")
    images, numbers = ShardedImages(tmp_path / "drawn", "train"), torch.arange(BATCH)
    y = torch.from_numpy(images.labels[:BATCH])
    drawn_of = manifest.splits["train"].class_images
    assert drawn_of[2] == 0 and 0.1 < drawn_of[1] / 70 < 0.4  # 0.25 of the real ones
    flow = fm.load(teacher)
    z = noise.draws(source.seed, DRAWN, numbers, flow.shape)
    due = flow.decode(flow.path.sample_source(z), y=y, rtol=1e-2, atol=1e-2)
    assert torch.equal(torch.from_numpy(images.gather(numbers.numpy())).permute(0, 3, 1, 2), due)


def test_the_drawn_set_is_the_same_after_a_stop_and_another_of_another_seed(teacher: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stopping(function: Any, parts: Any) -> Any:
        yield function(parts[0])
        raise Stop

    def source(seed: int) -> Any:
        changes = [f"training.seed={seed}"]
        own = Recipe.load(teacher)
        return student(own, str(teacher), weights_of(teacher), 70, tolerance=1e-2, changes=changes)[1]

    whole = write_shards(source(0), tmp_path / "whole", SETTINGS)
    with pytest.raises(Stop):
        write_shards(source(0), tmp_path / "stopped", SETTINGS, stopping)
    assert write_shards(source(0), tmp_path / "stopped", SETTINGS).digest == whole.digest
    assert write_shards(source(1), tmp_path / "other", SETTINGS).digest != whole.digest


def test_a_student_is_its_teacher_but_for_what_reflow_decides() -> None:
    teacher = Recipe.load("tiny", ["training.coupling=minibatch_ot", "training.flips=true", "path.sigma_min=0.01"])
    weights = "a" * 64
    for begin in ("run", "scratch"):
        told = differences(
            teacher.training_values(), student(teacher, "runs/tiny", weights, 50, begin)[0].training_values()
        )
        due = {"training.coupling", "training.flips", "training.drawn_by"}
        assert {one.split(" ")[0] for one in told} == due | ({"training.initial_weights"} if begin == "run" else set())
    diffusion = Recipe.load("tiny", ["objective=noise_matching", "path=vp"])
    other, _ = student(diffusion, "runs/ddpm", weights, 50, "scratch", changes=["training.total_images=128"])
    assert (other.objective, other.path.kind, other.training.total_images) == ("flow_matching", "ot", 128)
    other.check()
    again, source = student(teacher.model_copy(update={"training": other.training}), "runs/reflow", weights, 50)
    assert again.training.seed == source.seed == teacher.training.seed + 1  # no noise that the teacher was trained on


@pytest.mark.parametrize(
    ("changes", "begin", "says"),
    [
        (["super_resolution=true", "data.low_size=8"], "scratch", "runs/x: is told a small picture"),
        (["objective=noise_matching", "path=vp"], "run", r"runs/x: does not predict a velocity \(noise_matching\)"),
        (["objective=mean_flow"], "run", r"runs/x: does not predict a velocity \(mean_flow\)"),
    ],
)
def test_a_network_that_is_told_more_or_answers_something_else_is_refused(changes: Any, begin: Any, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        student(Recipe.load("tiny", changes), "runs/x", "a" * 64, 50, begin)


@pytest.mark.parametrize(
    "change",
    [
        "training.drawn_by=0123456789abcdef",
        "training.initial_weights=none",
        "class_conditional=true",
        "objective=mean_flow",
        "path=vp",
        "model.channels=64",
        "data.size=32",
    ],
)
def test_what_reflow_decides_is_not_changed(change: str) -> None:
    with pytest.raises(SettingsError, match=f"--set {change.partition('=')[0]}.*: is what reflow decides"):
        student(Recipe.load("tiny"), "runs/x", "a" * 64, 50, changes=[change])


@pytest.mark.parametrize(
    "change", ["training.flips=true", "training.coupling=minibatch_ot", "training.coupling=persistent_ot"]
)
def test_what_would_part_an_image_from_its_noise_is_refused(change: str) -> None:
    recipe, _ = student(Recipe.load("tiny"), "runs/x", "a" * 64, 50, changes=[change])
    with pytest.raises(SettingsError, match=f"{change.partition('=')[0]}: each image goes with the noise"):
        recipe.check()
    check(recipe.training.model_copy(update={"flips": False, "coupling": "independent"}), ALONE)


def test_how_images_are_drawn_is_part_of_the_recipe() -> None:
    def recipe(images: int = 50, tolerance: float = 1e-4, weights: str = "a", seed: int = 0) -> Recipe:
        changes = [f"training.seed={seed}"]
        return student(Recipe.load("tiny"), "runs/x", weights * 64, images, "scratch", tolerance, changes)[0]

    found = [recipe(), recipe(images=51), recipe(tolerance=1e-3), recipe(weights="b"), recipe(seed=1)]
    assert len({one.training.drawn_by for one in found}) == 5
    assert recipe().digest() == recipe().digest() and recipe().digest() not in {one.digest() for one in found[1:]}


def test_a_training_goes_on_with_the_weights_that_drew_for_it(tmp_path: Path) -> None:
    assert drawing_weights(tmp_path, "b" * 64) == "b" * 64
    facts = {"data": "d", "digest": "x", "shape": [3, 16, 16], "classes": [], "drawn": {"weights": "a" * 64}}
    write_json(tmp_path / "data.json", facts)
    assert drawing_weights(tmp_path, "b" * 64) == "b" * 64  # nothing is trained yet
    (tmp_path / "checkpoints" / "000000000064").mkdir(parents=True)
    assert drawing_weights(tmp_path, "b" * 64) == "a" * 64


def test_two_ranks_and_a_resume_see_the_noises_of_one(teacher: Path, tmp_path: Path) -> None:
    recipe, source = student(Recipe.load(teacher), str(teacher), weights_of(teacher), 70, tolerance=1e-2)
    write_shards(source, tmp_path / "drawn", SETTINGS)
    images, model = ShardedImages(tmp_path / "drawn", "train"), recipe.build((3, 16, 16), None)[0]
    target = objective("flow_matching")(recipe.path)

    def noises(start: int, rank: int = 0, ranks: int = 1, window: int | None = None) -> torch.Tensor:
        batch = next(batches(images, 8, rank, ranks, start=start, window_shards=window))
        return drawn(batch, slice(0, len(batch.images)), model, target, recipe.training)[1]["z"]

    for window in (None, 1):
        whole = noises(16, window=window)
        assert torch.equal(torch.cat([noises(16, rank, 2, window) for rank in range(2)]), whole)
    positions = next(batches(images, 8, start=16)).indices
    assert torch.equal(noises(16), noise.draws(recipe.training.seed, DRAWN, positions, (3, 16, 16)))

"""The decision by hand on rows, and on networks that were trained here: none is better than itself, noise is worse."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fm.cells import cells
from fm.checkpoints import Store, load_weights
from fm.comparing import run_of
from fm.data import Preparation, ShardedImages, open_source, write_shards
from fm.errors import UserError
from fm.evaluation import evaluate
from fm.facts import on_data
from fm.judging import Decision, judge, numbers
from fm.metrics import load_features
from fm.recipe import Recipe, load, opened
from fm.reference import measure_reference
from fm.state import Weights
from tests.fm.test_comparing import FD, LEVELS, a_row
from tests.trainings import train_here

OTHER = [level + (0.1 if i % 2 else -0.1) for i, level in enumerate(LEVELS)]  # moves the difference by a little only
BITS = {"nll_converged": True, "nll_images": 20, "nll_k": 1, "nll_probe": "per_image"}


def judged(champion: list[Any], challenger: list[Any], first: str = FD) -> Decision:
    return judge(run_of("champion", "runs/a", champion), run_of("challenger", "runs/b", challenger), first)


def bits(value: float, without: list[float] | None) -> dict[str, Any]:
    return BITS | {"bits_per_dim": value, "bits_per_dim_without": without or [value] * 10}


def test_better_by_more_than_the_uncertainty_is_accepted() -> None:
    found = judged([a_row(400.0)], [a_row(380.0, OTHER)])
    assert found.accepted and found.primary is not None and found.primary.difference == -20
    assert found.why == "fd_x improves and nothing worsens: fd_x 380 after 400, -20 ± 0.68 (euler 8)"
    told = numbers(found)
    assert told["decision"] == "accepted" and told["metrics"][0]["better"] == "challenger"


def test_the_same_and_what_cannot_be_told_apart_are_refused() -> None:
    same = judged([a_row(400.0)], [a_row(400.0)])
    assert not same.accepted and "does not improve by more than its uncertainty" in same.why
    assert not judged([a_row(400.0)], [a_row(399.8, OTHER)]).accepted
    assert not judged([a_row(400.0)], [a_row(420.0, OTHER)]).accepted


def test_another_metric_that_worsens_or_is_lost_refuses() -> None:
    better, wobble = a_row(380.0, OTHER), [4.0 + 0.001 * i for i in range(10)]
    champion = [a_row(400.0) | bits(4.0, None)]
    worse = judged(champion, [better | bits(4.5, wobble)])
    assert not worse.accepted and worse.why.startswith("bits_per_dim worsens by more than its uncertainty")
    assert judged(champion, [better | bits(3.5, wobble)]).accepted
    lost = judged(champion, [better | {**BITS, "nll_converged": False}])
    assert not lost.accepted and "bits_per_dim cannot be compared: challenger has not converged" in lost.why
    neither = {**BITS, "nll_converged": False}
    assert judged([a_row(400.0) | neither], [better | neither]).accepted


def test_the_primary_metric_is_the_one_named_at_the_finest_point() -> None:
    second = {"kid_x": 2.0, "kid_x_low": 1.0, "kid_x_high": 3.0, "kid_x_without": LEVELS}
    found = judged([a_row(400.0) | second], [a_row(300.0, OTHER) | second], first="kid_x")
    assert found.primary is not None and found.primary.quantity == "kid_x" and not found.accepted
    champion = [a_row(400.0, nfe=4), a_row(300.0, nfe=16)]
    challenger = [a_row(100.0, OTHER, nfe=4), a_row(310.0, OTHER, nfe=16)]
    finest = judged(champion, challenger).primary
    assert finest is not None and str(finest.cell) == "euler 16" and finest.better == "champion"


def test_without_a_common_point_it_says_what_to_measure() -> None:
    with pytest.raises(UserError, match="evaluate"):
        judged([a_row(nfe=4)], [a_row(nfe=8)])


def test_a_distance_that_one_has_not_is_no_ground() -> None:
    found = judged([a_row(400.0)], [a_row(380.0) | {f"{FD}_without": None}])
    assert not found.accepted and f"{FD} cannot be compared: too few images" in found.why


RECIPE = [
    "evaluation.grid=[{solver = 'euler', nfe = 8}]",
    "evaluation.samples=200",
    "evaluation.nll_images=0",
    "evaluation.features=random_conv",
    "evaluation.reference_images=200",
]


def trained(run: Path, data: Path, images: int) -> Path:
    return train_here(run, data, Recipe.load("tiny", [*RECIPE, f"training.total_images={images}"]))


def noisy(of: Path, run: Path, data: Path, share: float) -> Path:
    """The network with noise on each weight, so much of that tensor's standard deviation."""
    recipe, (tensors, info) = Recipe.load(of), load_weights(of)
    generator = torch.Generator().manual_seed(0)
    spoiled = {
        name: value + share * value.std(correction=0) * torch.randn(value.shape, generator=generator)
        for name, value in tensors.items()
    }
    with opened(run, recipe) as folder:
        on_data(folder, data, ShardedImages(data).manifest)
        Store(folder, recipe.training_values()).save(Weights(spoiled, info["images_seen"]))
    return run


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_of_real_networks_the_longer_trained_one_is_accepted_and_no_other(tmp_path: Path) -> None:
    data, features = tmp_path / "data", load_features("random_conv")
    write_shards(open_source("photos:?tiles=150"), data, Preparation(size=16, holdout=0.3))
    champion = trained(tmp_path / "champion", data, 3_200)
    runs = {"champion": champion, "same": noisy(champion, tmp_path / "same", data, 0.0)}
    runs["noisy"] = noisy(champion, tmp_path / "noisy", data, 0.05)
    assert load_weights(runs["same"])[1] == load_weights(champion)[1]
    runs["longer"] = trained(tmp_path / "longer", data, 12_800)
    training, heldout = (ShardedImages(data, split) for split in ("train", "test"))
    decisions: dict[str, list[bool]] = {name: [] for name in runs if name != "champion"}
    for seed in range(5):
        settings = Recipe.load(champion, [f"evaluation.seed={seed}"]).evaluation
        reference = measure_reference(training, heldout, features, settings, tmp_path / "reference")
        (cell,) = cells(settings)
        rows = {name: [evaluate(load(run), cell, features, reference)] for name, run in runs.items()}
        for name in decisions:
            row = rows[name]
            found = judge(run_of("champion", "a", rows["champion"]), run_of("challenger", "b", row), "fd_random_conv")
            decisions[name].append(found.accepted)
            print(seed, name, found.why)
    assert decisions == {"same": [False] * 5, "noisy": [False] * 5, "longer": [True] * 5}

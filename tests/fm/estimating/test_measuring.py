"""What is measured is the library's own work; what takes too long is carried on from less."""

from functools import partial

import pytest

from fm.errors import DataError
from fm.estimating import measuring
from fm.estimating.measuring import Data, Job, carried, measure
from fm.footprint import Footprint, footprint
from fm.pairing import stream_of
from fm.parallel import ALONE, World
from fm.recipe import Recipe

STAND = Data("", 500, (3, 16, 16), 2)


def test_work_that_takes_too_long_is_carried_on_by_a_line() -> None:
    asked = []

    def work(images: int, budget_s: float) -> list[float]:
        asked.append(images)
        return [0.5 + 0.25 * images] * 3

    images, times, seconds = carried(work, 1000)
    assert asked == [1, images] and images == measuring.LEAST_IMAGES and len(times) == 3
    assert seconds == pytest.approx(0.5 + 0.25 * 1000)
    assert carried(work, 4)[0] == 4 and carried(work, 4)[2] == pytest.approx(1.5)
    assert carried(work, 1) == (1, [0.75] * 3, 0.75)


@pytest.mark.parametrize("one", [0.1, 5.0])
def test_a_disturbed_first_image_does_not_make_the_others_free_or_dearer_than_they_were(one: float) -> None:
    """8 images of a second each, and the first of them alone measured ten times too fast or five times too slow."""
    images, _, seconds = carried(lambda images, _: [one] if images == 1 else [1.0 * images] * 2, 128)
    assert images < 128 and 64 <= seconds <= 128


@pytest.mark.parametrize(
    ("one", "asked", "says"),
    [
        (30.0, [1], "it took 30 s: measured once, with 1 of 100 images"),
        (6.0, [1, 3], "3 images and not of 8, as one took 6 s"),
    ],
)
def test_what_takes_long_is_measured_on_less_or_once(one: float, asked: list[int], says: str) -> None:
    done: list[int] = []
    said: list[str] = []

    def work(images: int, budget_s: float) -> list[float]:
        done.append(images)
        return [one * images]

    images, _, seconds = carried(work, 100, say=said.append)
    assert done == asked and images == asked[-1] and said[-1] == says
    assert seconds == pytest.approx(100 * one)


def test_a_step_that_takes_long_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, cpu = Recipe.load("tiny"), []
    build = partial(recipe.build, STAND.shape, None)
    steps = partial(measuring._steps, build, STAND.open(), recipe, ALONE, "cpu", cpu)
    monkeypatch.setattr(measuring, "BUDGET_S", 0.0)
    assert len(steps(2, 0.0)) == len(cpu) == 1 and cpu[0] > 0


def test_what_stands_for_data_is_read_like_data() -> None:
    settings = Recipe.load("tiny", ["training.coupling=minibatch_ot"]).training
    shares = [next(stream_of(STAND.open(), settings, World(rank, 2), conditional=True)(64)) for rank in (0, 1)]
    assert [share.images.shape for share in shares] == [(32, 3, 16, 16)] * 2
    assert sorted(int(n) for share in shares for n in share.noises) == list(range(64, 128))
    assert all(share.labels.lt(2).all() for share in shares) and shares[0].images.float().std() > 60


def test_a_step_an_evaluation_and_a_peak_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "BUDGET_S", 0.4)
    grid = "evaluation.grid=[{solver = 'euler', nfe = 2, nll_images = 8}]"  # which others have not
    recipe = Recipe.load("tiny", ["evaluation.features=random_conv", grid, "evaluation.nll_images=0"])
    said: list[str] = []
    need = footprint(705_000, recipe.training, workers=4, image=2 * 10**6)
    found = measuring._measured(Job(recipe, STAND, 4, False, need, said.append), ALONE, "cpu")
    assert found["share_images"] == 16 and 2 <= found["step_images"] <= 16
    assert 0 < found["sample_s"] < found["likelihood_s"] and found["features_s"] > 0 and found["distances_s"] > 0
    assert found["step_s"] > 16 * found["sample_s"]  # forward and backward of as many images
    assert found["peak_bytes"] > need.with_images(16) > 5 * need.weights and found["footprint"] == need
    assert said[0] == "training steps of 1 image on each worker" and "distances" not in said[0]
    parts = ("training steps", "two evaluations of the network", "two evaluations with", "the features")
    assert all(any(line.startswith(part) for line in said) for part in parts)


def test_what_a_process_meets_is_said_here() -> None:
    with pytest.raises(DataError, match="nowhere: no prepared data set here"):
        measure(Recipe.load("tiny"), Data("nowhere", 1, (3, 16, 16), 0), 1, Footprint(0, 0, 0, 0))

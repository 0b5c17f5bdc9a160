"""What is measured is the library's own work; what takes too long is carried on from less."""

import pytest

from fm.errors import DataError
from fm.estimating import measuring
from fm.estimating.measuring import Data, Job, carried, measure
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


def test_what_stands_for_data_is_read_like_data() -> None:
    settings = Recipe.load("tiny", ["training.coupling=minibatch_ot"]).training
    shares = [next(stream_of(STAND.open(), settings, World(rank, 2), conditional=True)(64)) for rank in (0, 1)]
    assert [share.images.shape for share in shares] == [(32, 3, 16, 16)] * 2
    assert sorted(int(n) for share in shares for n in share.noises) == list(range(64, 128))
    assert all(share.labels.lt(2).all() for share in shares) and shares[0].images.float().std() > 60


def test_a_step_an_evaluation_and_a_peak_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "BUDGET_S", 0.4)
    recipe = Recipe.load("tiny", ["evaluation.features=random_conv"])
    found = measuring._measured(Job(recipe, STAND, workers=4, cuda=False), ALONE, "cpu")
    assert found["share_images"] == 16 and 2 <= found["step_images"] <= 16
    assert 0 < found["sample_s"] < found["likelihood_s"] and found["features_s"] > 0 and found["distances_s"] > 0
    assert found["step_s"] > 16 * found["sample_s"]  # forward and backward of as many images
    need = found["footprint"]
    assert found["peak_bytes"] > need.with_images(16) > 5 * need.weights


def test_what_a_process_meets_is_said_here() -> None:
    with pytest.raises(DataError, match="nowhere: no prepared data set here"):
        measure(Recipe.load("tiny"), Data("nowhere", 1, (3, 16, 16), 0), workers=1)

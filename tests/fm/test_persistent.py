"""Noises that images keep: each number once, pairs that come closer, the same at any place a run is resumed."""

from collections.abc import Iterator

import pytest
import torch

from fm import noise
from fm.couplings import minibatch_ot
from fm.drawing import data_at
from fm.errors import SettingsError
from fm.pairing import paired
from fm.parallel import World
from fm.persistent import Persistent
from fm.recipe import Recipe
from fm.training import Training
from tests.fm.test_training import SHAPE, Batch, stream

IMAGES = 40


def settings(**changes: object) -> Training:
    return Training(**{"total_images": 1, "batch_images": 8, "coupling": "persistent_ot", **changes})  # type: ignore[arg-type]


def kept(of: Training) -> Persistent:
    blocks = stream(of.model_copy(update={"batch_images": of.block_images}))
    return Persistent(blocks, minibatch_ot, of, IMAGES)


def walked(of: Training, upto: int, ranks: int = 1) -> list[dict[int, int]]:
    """By rank the noise of each stream position, and each rank's table at the end in agreement."""
    found, tables = [], []
    for rank in range(ranks):
        blocks = stream(of.model_copy(update={"batch_images": of.block_images}))
        batches = paired(stream(of, World(rank, ranks)), blocks, of, images=IMAGES)
        own: dict[int, int] = {}
        for batch in batches(0):
            if int(batch.positions[0]) >= upto:
                break
            own |= dict(zip(batch.positions.tolist(), batch.noises.tolist(), strict=True))
        found.append(own)
        tables.append(batches.kept.at(upto))  # type: ignore[attr-defined]
    assert all(torch.equal(table, tables[0]) for table in tables)
    return found


def distance(of: Training, table: torch.Tensor) -> float:
    """Mean squared distance of the images to the first of their noises."""
    images: dict[int, torch.Tensor] = {}
    for batch in stream(of)(0):
        images |= dict(zip(batch.indices.tolist(), batch.images, strict=True))
        if len(images) == IMAGES:
            break
    pixels = torch.stack([images[i] for i in range(IMAGES)])
    x_1 = data_at(pixels, torch.arange(IMAGES), of, "cpu")
    return float((noise.draws(of.seed, "z", table[:, 0], SHAPE) - x_1).square().mean())


def test_each_noise_stays_once_and_pairs_come_closer_than_one_batch_brings_them() -> None:
    of = settings(batch_images=12)  # of 40 images that come in one order: blocks of other images each time
    once = kept(of)
    first = distance(of, once.table)
    for batch in stream(of)(0):
        once.noises_of(batch.positions)
        if int(batch.positions[0]) == 36:
            after_one = distance(of, once.table)
        if int(batch.positions[0]) >= 480:
            break
    assert once.table.flatten().sort().values.tolist() == list(range(IMAGES))
    assert distance(of, once.table) < after_one < first


@pytest.mark.parametrize("changes", [{}, {"coupling_block_images": 24}, {"coupling_block_images": 4}])
@pytest.mark.parametrize("noises", [1, 3])
def test_the_pairs_are_those_of_a_run_that_was_resumed_and_of_any_number_of_ranks(noises: int, changes: dict) -> None:
    of = settings(coupling_noises=noises, **changes)
    (whole,), ranks = walked(of, 240), walked(of, 240, ranks=3)
    assert {place: number for rank in ranks for place, number in rank.items()} == whole
    assert len(set(whole.values())) == min(240, IMAGES * noises)
    for stop in (80, 88, 104):
        one, batches = kept(of), stream(of)
        one.begin(0)
        for batch in batches(0):
            # The batch after `stop` is drawn too, as it is on a GPU before the checkpoint is written.
            one.noises_of(batch.positions)
            if int(batch.positions[0]) == stop:
                break
        later = kept(of)
        later.table.copy_(one.at(stop))
        later.begin(stop)
        for batch in batches(stop):
            if int(batch.positions[0]) >= 240:
                break
            found = later.noises_of(batch.positions).tolist()
            assert found == [whole[place] for place in batch.positions.tolist()]


def test_an_image_that_comes_twice_in_a_block_has_one_noise() -> None:
    of = settings(coupling_block_images=8)

    def blocks(start: int) -> Iterator[Batch]:
        index = torch.tensor([5, 6, 5, 7, 8, 6, 1, 2])
        yield Batch(torch.zeros(8, *SHAPE, dtype=torch.uint8), index * 0, index, torch.arange(start, start + 8))

    found = Persistent(blocks, minibatch_ot, of, IMAGES).noises_of(torch.arange(8))
    assert found[0] == found[2] and found[1] == found[5] and len(found.unique()) == 6


def test_what_cannot_be_kept_is_refused() -> None:
    with pytest.raises(SettingsError, match="would tell the labels of these; take minibatch_ot"):
        Recipe.load("tiny", ["training.coupling=persistent_ot", "class_conditional=true"]).check()
    with pytest.raises(
        SettingsError, match=r"coupling_noises: noises that images keep are of the coupling persistent_ot"
    ):
        Recipe.load("tiny", ["training.coupling_noises=2"]).check()
    with pytest.raises(SettingsError, match="images that come again, and these do not"):
        paired(stream(settings()), stream(settings()), settings())
    assert (
        Recipe.load("tiny").training_digest()
        == Recipe.load("tiny", ["training.coupling_noises=none"]).training_digest()
    )

"""Pairs of images and noises follow the stream position alone: whatever the ranks, the batch, or a resume."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from torch import Tensor

from fm import noise
from fm.couplings import COUPLINGS, PERSISTENT, minibatch_ot
from fm.data.batches import Batch, share
from fm.drawing import draw, noises_of
from fm.errors import SettingsError
from fm.objectives import NO_LABEL, FlowMatching
from fm.pairing import Stream, paired
from fm.parallel import World
from fm.paths import OTPath
from fm.training import Training, check

COUPLED = [name for name in COUPLINGS if name not in ("independent", *PERSISTENT)]
every_coupling = pytest.mark.parametrize("name", COUPLED)


def stream(count: int, rank: int = 0, world: int = 1) -> Stream:
    """The contract of fm.data.batches on 50 pictures of two pixels in three classes."""
    pictures = (noise.uniforms(3, "pictures", torch.arange(50), (1, 1, 2)) * 256).to(torch.uint8)
    places = torch.tensor(share(count, rank, world))

    def batches_from(start: int) -> Iterator[Batch]:
        for first in itertools.count(start, count):
            positions = first + places
            index = positions * 7 % 50
            yield Batch(pictures[index], index % 3, index, positions)

    return batches_from


def settings_for(name: str, batch: int, block: int, **changes: Any) -> Training:
    changes = {"flips": True, **changes}
    return Training(total_images=1, batch_images=batch, coupling=name, coupling_block_images=block, **changes)


def pairs(settings: Training, start: int, steps: int, rank: int = 0, world: int = 1, conditional: bool = True) -> Any:
    """(positions, noise positions) of this rank's shares of some steps."""
    shares = stream(settings.batch_images, rank, world)
    found = list(itertools.islice(paired(shares, stream(settings.block_images), settings, conditional)(start), steps))
    return torch.cat([b.positions for b in found]), torch.cat([b.noises for b in found])


@every_coupling
@hypothesis(max_examples=12, deadline=None)
@given(
    blocks=st.sampled_from([(12, 12), (12, 4), (12, 1), (4, 12), (6, 24)]),
    world=st.integers(1, 4),
    step=st.integers(0, 9),
    conditional=st.booleans(),
)
def test_pairs_follow_the_stream_position_alone(
    name: str, blocks: tuple[int, int], world: int, step: int, conditional: bool
) -> None:
    """The same on any number of ranks, from any step on (in the middle of a block too), each noise once in a block."""
    batch, block = blocks
    settings = settings_for(name, batch, block)
    steps = 48 // batch
    whole_at, whole = pairs(settings, 0, 4 * steps, conditional=conditional)
    assert whole_at.tolist() == list(range(192))
    assert whole.reshape(-1, block).sort(1).values.flatten().equal(whole_at)
    if conditional:
        assert (whole * 7 % 50 % 3).equal(whole_at * 7 % 50 % 3)
    for rank in range(world):
        at, noises = pairs(settings, step * batch, steps, rank, world, conditional)
        assert noises.equal(whole[at])


@every_coupling
def test_a_block_is_coupled_as_it_is_trained_on(name: str) -> None:
    """The coupling sees the very x_1 and z of the training draw, flips and dequantisation included, and true labels."""
    settings = settings_for(name, 12, 24, label_drop=1.0)
    batch = next(stream(24)(24))
    at, noises = pairs(settings, 24, 2)
    objective = FlowMatching(OTPath())
    x_1, _, own, y = draw(batch.images, batch.labels, at, at, objective, settings, torch.zeros(1))
    assert y is not None and y.eq(NO_LABEL).all()
    assert noises.equal(24 + COUPLINGS[name](own, x_1, batch.labels))
    *_, z, _ = draw(batch.images, None, at, noises, objective, settings, torch.zeros(1))
    assert z.equal(own[noises - 24])


def test_a_larger_block_finds_nearer_pairs() -> None:
    def cost(block: int) -> float:
        settings = settings_for("minibatch_ot", 8, block)
        at, noises = pairs(settings, 0, 16, conditional=False)
        batch = next(stream(128)(0))
        objective = FlowMatching(OTPath())
        x_1, _, z, _ = draw(batch.images, None, at, noises, objective, settings, torch.zeros(1))
        return float((z - x_1).square().mean())

    costs = [cost(block) for block in (1, 8, 128)]
    assert costs[2] < 0.9 * costs[1] < 0.9 * 0.9 * costs[0]


def test_a_block_is_worked_out_once_for_all_its_batches() -> None:
    calls: list[int] = []

    def blocks(start: int) -> Iterator[Batch]:
        calls.append(start)
        return stream(24)(start)

    list(itertools.islice(paired(stream(6), blocks, settings_for("minibatch_ot", 6, 24))(12), 6))
    assert calls == [0, 24]


def test_independent_costs_nothing() -> None:
    shares = stream(6)

    def blocks(start: int) -> Iterator[Batch]:
        raise AssertionError("no block is needed")

    settings = settings_for("independent", 6, 6)
    assert paired(shares, blocks, settings) is shares
    batch = next(shares(0))
    assert noises_of(batch, settings) is batch.positions


@pytest.mark.parametrize(("batch", "block"), [(12, 8), (8, 12), (64, 100)])
def test_block_and_batch_must_divide_one_another(batch: int, block: int) -> None:
    says = f"training.coupling_block_images: a block of {block} images and a batch of {batch} do not divide one another"
    with pytest.raises(SettingsError, match=says):
        check(settings_for("minibatch_ot", batch, block), World())
    check(settings_for("minibatch_ot", 2 * block, block), World())


def test_batches_without_pairs_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"training\.coupling: the batches do not say .* fm\.pairing\.paired"):
        noises_of(next(stream(6)(0)), settings_for("minibatch_ot", 6, 6))


def test_points_are_paired_too() -> None:
    points = noise.draws(1, "points", torch.arange(16), (2,))

    def batches_from(start: int) -> Iterator[tuple[Tensor, ...]]:
        yield Batch(points, torch.full((16,), -1), torch.arange(16), torch.arange(16))

    settings = settings_for("minibatch_ot", 16, 16, flips=False)
    (batch,) = paired(batches_from, batches_from, settings)(0)
    assert batch.noises.equal(minibatch_ot(noise.draws(0, "z", torch.arange(16), (2,)), points))


def test_a_coupling_that_is_no_permutation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COUPLINGS, "wrong", lambda z, x_1, y: torch.zeros(len(z), dtype=torch.long))
    settings = Training(batch_images=4, total_images=8, coupling="wrong")

    def stream(start: int) -> Iterator[Batch]:
        at = torch.arange(start, start + 4)
        yield Batch(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.long), at, at)

    with pytest.raises(SettingsError, match="wrong returns no permutation of 4 noises"):
        next(paired(stream, stream, settings)(0))

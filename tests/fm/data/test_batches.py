from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fm.data import ShardedImages, batches, order_of
from fm.data.batches import share
from fm.errors import DataError, SettingsError, UserError


class Numbers:
    """A data set whose image i is one pixel of value i; it says no to a shard that is not in the window."""

    def __init__(self, *sizes):
        self.sizes = sizes
        self.shard_of = np.repeat(np.arange(len(sizes)), sizes)
        self.window = None

    def keep(self, shards):
        self.window = shards

    def take(self, indices):
        assert self.window is None or set(self.shard_of[indices]) <= self.window
        return np.asarray(indices, np.uint8).reshape(-1, 1, 1, 1), indices % 7


shards = st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(sum)
sizes, seeds, windows = st.integers(1, 60), st.integers(0, 99), st.none() | st.integers(1, 7)


@given(shards, windows, sizes, st.integers(1, 9), seeds, st.integers(0, 10**6))
def test_the_global_batches_do_not_depend_on_the_world(shards, window, batch, world, seed, start):
    world = min(world, batch)
    alone = list(islice(batches(Numbers(*shards), batch, 0, 1, seed, start, window), 3))
    each = [list(islice(batches(Numbers(*shards), batch, r, world, seed, start, window), 3)) for r in range(world)]
    for step, whole in enumerate(alone):
        for field, value in whole._asdict().items():
            if value is None:
                continue  # no pairs were asked for
            assert torch.equal(value, torch.cat([getattr(each[rank][step], field) for rank in range(world)]))


@given(shards, windows, sizes, seeds, st.integers(0, 5))
def test_a_resume_continues_the_stream(shards, window, batch, seed, steps):
    data = Numbers(*shards)
    later = next(islice(batches(data, batch, seed=seed, window_shards=window), steps, None))
    resumed = next(batches(data, batch, seed=seed, start=steps * batch, window_shards=window))
    assert all(torch.equal(a, b) for a, b in zip(later[:4], resumed[:4], strict=True))
    positions = steps * batch + np.arange(batch)
    assert later.positions.tolist() == positions.tolist()
    assert later.indices.tolist() == order_of(shards, seed, window).at(positions).tolist()
    assert later.images.flatten().tolist() == later.indices.tolist()
    assert later.labels.tolist() == (later.indices % 7).tolist()


@given(batch=st.integers(1, 10**6), world=st.integers(1, 1000))
def test_shares_are_even_within_one(batch, world):
    world = min(batch, world)
    lengths = [len(share(batch, rank, world)) for rank in range(world)]
    assert sum(lengths) == batch and max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("window", [None, 2])
def test_real_images_in_torch_order(photos, window):
    data = ShardedImages(photos, "train")
    for batch in islice(batches(data, 12, seed=5, window_shards=window), 20):
        assert batch.images.shape == (12, 3, 16, 16) and batch.images.dtype == torch.uint8
        assert len(data._open) <= (window or len(data.sizes))
    other = ShardedImages(photos, "train")
    for image, label, index in zip(batch.images, batch.labels, batch.indices, strict=True):
        assert (image.permute(1, 2, 0).numpy() == other[int(index)][0]).all() and label == other[int(index)][1]


def test_batches_made_ahead_are_the_same():
    now, ahead = (islice(batches(Numbers(9, 9, 9), 5, window_shards=2, ahead=n), 9) for n in (0, 3))
    for one, other in zip(now, ahead, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:4], other[:4], strict=True))


@pytest.mark.parametrize("ahead", [0, 2])
@pytest.mark.parametrize(
    ("error", "says"), [(DataError("shard 3 is gone"), "^shard 3 is gone$"), (MemoryError(), "^5 images do not fit")]
)
def test_what_goes_wrong_is_said_to_the_caller(ahead, error, says):
    data = Numbers(9)

    def take(indices):
        raise error

    data.take = take
    with pytest.raises(UserError, match=says):
        next(batches(data, 5, ahead=ahead))


def test_bad_input_is_said_at_once():
    with pytest.raises(SettingsError, match="batch of 3 images cannot be shared by 4 workers"):
        batches(Numbers(10), 3, rank=0, world_size=4)
    with pytest.raises(SettingsError, match="no rank 4 among 4"):
        batches(Numbers(10), 8, rank=4, world_size=4)
    with pytest.raises(SettingsError, match="-1 images"):
        batches(Numbers(10), 8, start=-1)
    with pytest.raises(SettingsError, match="window of 0 shards"):
        batches(Numbers(10), 8, window_shards=0)


class Paired(Numbers):
    def low(self, indices):
        assert self.window is None or set(self.shard_of[indices]) <= self.window
        return np.asarray(indices, np.uint8).reshape(-1, 1, 1, 1) + 100


@pytest.mark.parametrize("window", [None, 1])
def test_pairs_hold_the_small_picture_of_each_image(window):
    plain, paired = (next(batches(Paired(5, 7), 12, window_shards=window, pairs=pairs)) for pairs in (False, True))
    assert plain.low is None and torch.equal(plain.images, paired.images)
    assert torch.equal(paired.low, paired.images + 100)

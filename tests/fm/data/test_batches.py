from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fm.data import Order, ShardedImages, batches
from fm.data.batches import share
from fm.errors import SettingsError


class Numbers:
    """A data set whose image i is one pixel of value i."""

    def __init__(self, length):
        self.labels = np.arange(length) % 7

    def __len__(self):
        return len(self.labels)

    def gather(self, indices):
        return np.asarray(indices, np.uint8).reshape(-1, 1, 1, 1)


sizes = st.integers(1, 60)


@given(length=sizes, batch=sizes, world=st.integers(1, 9), seed=st.integers(0, 99), start=st.integers(0, 10**6))
def test_the_global_batches_do_not_depend_on_the_world(length, batch, world, seed, start):
    world = min(world, batch)
    data = Numbers(length)
    alone = list(islice(batches(data, batch, seed=seed, start=start), 3))
    shares = [list(islice(batches(data, batch, rank, world, seed, start), 3)) for rank in range(world)]
    for step, whole in enumerate(alone):
        for field, value in whole._asdict().items():
            assert torch.equal(value, torch.cat([getattr(shares[rank][step], field) for rank in range(world)]))


@given(length=sizes, batch=sizes, seed=st.integers(0, 99), steps=st.integers(0, 5))
def test_a_resume_continues_the_stream(length, batch, seed, steps):
    data = Numbers(length)
    later = next(islice(batches(data, batch, seed=seed), steps, None))
    resumed = next(batches(data, batch, seed=seed, start=steps * batch))
    assert all(torch.equal(a, b) for a, b in zip(later, resumed, strict=True))
    positions = steps * batch + np.arange(batch)
    assert later.positions.tolist() == positions.tolist()
    assert later.indices.tolist() == Order(length, seed).at(positions).tolist()
    assert later.images.flatten().tolist() == later.indices.tolist()
    assert later.labels.tolist() == (later.indices % 7).tolist()


@given(batch=st.integers(1, 10**6), world=st.integers(1, 1000))
def test_shares_are_even_within_one(batch, world):
    world = min(batch, world)
    lengths = [len(share(batch, rank, world)) for rank in range(world)]
    assert sum(lengths) == batch and max(lengths) - min(lengths) <= 1


def test_real_images_in_torch_order(photos):
    data = ShardedImages(photos, "train")
    batch = next(batches(data, 12, seed=5))
    assert batch.images.shape == (12, 3, 16, 16) and batch.images.dtype == torch.uint8 and batch.images.is_contiguous()
    for image, label, index in zip(batch.images, batch.labels, batch.indices, strict=True):
        assert (image.permute(1, 2, 0).numpy() == data[int(index)][0]).all() and label == data[int(index)][1]


def test_bad_input_is_said_at_once():
    with pytest.raises(SettingsError, match="batch of 3 images cannot be shared by 4 workers"):
        batches(Numbers(10), 3, rank=0, world_size=4)
    with pytest.raises(SettingsError, match="no rank 4 among 4"):
        batches(Numbers(10), 8, rank=4, world_size=4)
    with pytest.raises(SettingsError, match="-1 images"):
        batches(Numbers(10), 8, start=-1)

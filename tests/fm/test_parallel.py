"""What ranks agree on, in real processes over gloo."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fm.errors import CheckpointError
from fm.parallel import ALONE, Gradients, World, parts


@given(count=st.integers(0, 200), limit=st.none() | st.integers(1, 50))
def test_parts_cover_each_image_once_within_the_limit(count: int, limit: int | None) -> None:
    cut = parts(count, limit)
    assert [i for part in cut for i in range(count)[part]] == list(range(count))
    assert all(part.stop - part.start <= (limit or count) for part in cut)
    assert len(cut) == math.ceil(count / (limit or max(count, 1)))


def test_a_world_of_one_needs_no_process_group() -> None:
    assert World.current() == ALONE and ALONE.first
    assert ALONE.any(True) and not ALONE.any(False) and not ALONE.all(False)
    assert ALONE.once(lambda: 3) == 3


def test_gradients_are_views_of_one_buffer() -> None:
    model = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    gradients = Gradients(model, ALONE, {"loss": 1, "pair": 2})
    model(torch.ones(1, 2, 3, 3)).sum().backward()
    assert gradients.flat.eq(1).all()
    assert model.weight.grad.stride() == model.weight.stride()
    gradients.signal("loss", 2.0)
    gradients.signal("loss", torch.tensor(0.5))
    gradients.signal("pair", torch.tensor([1.0, 2.0]))
    assert gradients.reduce() == {"loss": [2.5], "pair": [1.0, 2.0]}
    gradients.zero()
    assert gradients.buffer.eq(0).all() and model.bias.grad.eq(0).all()


def test_clip_scales_to_the_limit_and_returns_the_norm_before() -> None:
    model = nn.Linear(4, 1, bias=False)
    gradients = Gradients(model, ALONE, {"loss": 1})
    gradients.flat.fill_(3.0)
    gradients.signal("loss", 7.0)
    assert gradients.clip(None) == 6.0
    assert gradients.clip(1.5) == 6.0
    torch.testing.assert_close(gradients.flat, torch.full((4,), 0.75))
    assert gradients.clip(10.0) == pytest.approx(1.5, rel=1e-5)
    torch.testing.assert_close(gradients.flat, torch.full((4,), 0.75))
    assert gradients.signals["loss"].item() == 7.0


def worker(rank: int, size: int, meeting: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    world = World.current()
    assert world == World(rank, size)
    assert world.any(rank == 1) and not world.any(False) and not world.all(rank == 1) and world.all(True)
    assert world.gather(10 + rank) == [10, 11]
    assert world.once(lambda: f"from {rank}") == "from 0"
    with pytest.raises(CheckpointError, match="disk is full"):
        world.once(full_disk)
    tensors = [torch.full((2, 3), float(rank)).t(), torch.tensor(rank)]
    world.share(tensors)
    assert all(tensor.eq(0).all() for tensor in tensors)
    model = nn.Linear(2, 1, bias=False)
    gradients = Gradients(model, world, {"leave": 1, "loss": 1})
    gradients.flat.fill_(rank + 1.0)
    gradients.signal("leave", rank == 1)
    assert gradients.reduce() == {"leave": [1.0], "loss": [0.0]}
    assert model.weight.grad.eq(3.0).all()
    gradients.flat.fill_(math.inf if rank else 1.0)
    gradients.reduce()
    assert not math.isfinite(gradients.clip(1.0))
    dist.destroy_process_group()


def full_disk() -> None:
    raise CheckpointError("the disk is full")


def test_two_processes_agree(tmp_path) -> None:
    mp.start_processes(worker, args=(2, str(tmp_path / "meet")), nprocs=2, start_method="fork")

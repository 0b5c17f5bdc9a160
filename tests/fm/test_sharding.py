"""A training in shards, over gloo: the loss, weights and checkpoints of one that is whole."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.fsdp  # seconds here, or in every process
import torch.multiprocessing as mp

from fm.checkpoints import load_weights
from fm.errors import SettingsError
from fm.parallel import ALONE, World
from fm.progress import Progress
from fm.sharding import fill, is_sharded, local, sharded_as, whole
from fm.training import Training, check
from tests.fm.test_training import TINY, fingerprint, network, run, stop_after

# Rates and clipping at which each matters; the last steps' losses have gone through all of Adam and the norm.
SHORT = {"total_images": 60, "save_images": 24, "report_images": 12, "clip_norm": 0.5, "ema_halflife_kimg": (0.05, 1)}
WHOLE = Training(**{**TINY, **SHORT})
SHARDED = WHOLE.model_copy(update={"fsdp": True})
SPARING = SHARDED.model_copy(update={"checkpoint_activations": True, "micro_batch_images": 2})


def losses(events) -> list[float]:
    return [number for e in events if isinstance(e, Progress) for number in (e.loss, e.grad_norm)]


def net(seed: int = 3) -> torch.nn.Module:
    return network("unet", multiples=(1, 2), attention_resolutions=(8,)).double()


def worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    world, place = World.current(), Path(folder)
    models = {}

    def training(name: str, settings: Training, stop=lambda: False) -> None:
        models[name] = net()
        if rank:  # only rank 0's weights count
            torch.nn.init.ones_(models[name].out[2].weight)
        events = run(place / name, settings, models[name], stop=stop, world=world)
        if rank == 0:
            torch.save(losses(events), place / f"{name}-{len(list(place.glob(name + '-*')))}")

    training("sharded", SHARDED)
    rows = [local(p).shape[0] for p in models["sharded"].parameters()]
    assert all(map(is_sharded, models["sharded"].parameters()))
    assert sum(rows) < 0.6 * sum(len(p) for p in models["sharded"].parameters())
    training("cut", SHARDED, stop_after(3))
    training("cut", SHARDED)
    training("sparing", SPARING)
    training("from-whole", SHARDED)
    pieces()
    dist.destroy_process_group()


def pieces() -> None:
    """What every function of the module says, on a parameter of 3 rows: 2 and 1."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    rank = dist.get_rank()
    sharded = distribute_tensor(torch.zeros(3, 2), init_device_mesh("cpu", (2,)), [Shard(0)])
    fill(sharded, torch.arange(6.0).view(3, 2) if rank == 0 else None)
    assert torch.equal(whole(sharded), torch.arange(6.0).view(3, 2)) and len(local(sharded)) == 2 - rank
    double = sharded_as(2 * local(sharded), sharded)
    assert is_sharded(double) and torch.equal(whole(double), 2 * torch.arange(6.0).view(3, 2))
    counter = torch.tensor(rank + 7)
    fill(counter, counter if rank == 0 else None)
    assert counter == 7 and whole(counter) is counter and sharded_as(counter, counter) is counter


def test_two_processes_in_shards_are_one_whole_and_their_checkpoints_are_of_either(tmp_path: Path) -> None:
    expected = losses(run(tmp_path / "whole", WHOLE, net()))
    run(tmp_path / "from-whole", WHOLE, net(), stop=stop_after(3))
    mp.start_processes(worker, args=(str(tmp_path),), nprocs=2, start_method="fork")
    for name in ("sharded", "sparing"):
        assert torch.load(tmp_path / f"{name}-0") == pytest.approx(expected, abs=1e-6)
    assert torch.load(tmp_path / "from-whole-0") == pytest.approx(expected[6:], abs=1e-6)
    assert torch.load(tmp_path / "cut-0") + torch.load(tmp_path / "cut-1") == torch.load(tmp_path / "sharded-0")
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "sharded")
    for average in ("ema", "ema_1kimg", "model"):
        one = load_weights(tmp_path / "whole", average)[0]
        for name in ("sharded", "sparing", "from-whole"):
            many = load_weights(tmp_path / name, average)[0]
            net().load_state_dict(many)
            assert all(torch.allclose(one[key], many[key], rtol=0, atol=1e-8) for key in one), name
    # Alone and whole, from what two left in the middle.
    assert (tmp_path / "cut" / "checkpoints" / "000000000036").exists()
    longer = WHOLE.model_copy(update={"total_images": 84})
    resumed = run(tmp_path / "sharded", longer, net())
    assert resumed[0].images_seen == 60 and losses(resumed) == pytest.approx(
        losses(run(tmp_path / "whole", longer, net())), abs=1e-6
    )


def test_shares_must_be_equal_and_alone_there_is_nothing_to_shard() -> None:
    check(SHARDED, World(0, 4))
    check(SHARDED, ALONE)
    with pytest.raises(SettingsError, match=r"with FSDP 5 workers take equal shares, and 12 images have none"):
        check(SHARDED, World(0, 5))

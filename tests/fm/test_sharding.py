"""A training in shards, over gloo: the loss, weights and checkpoints of one that is whole."""

import warnings
from pathlib import Path

import pytest
import torch
import torch._dynamo
import torch.distributed as dist
import torch.distributed.fsdp  # seconds here, or in every process
import torch.multiprocessing as mp

from fm.checkpoints import load_weights
from fm.errors import SettingsError
from fm.models import blocks
from fm.parallel import ALONE, World
from fm.progress import Progress
from fm.sharding import fill, is_sharded, local, sharded_as, whole
from fm.training import Training, check
from tests.fm.test_training import TINY, fingerprint, network, run, stop_after

SHORT = {"total_images": 48, "save_images": 999, "report_images": 12, "clip_norm": 0.5, "ema_halflife_kimg": (0.05, 1)}
POWERS = {"ema_lengths": (0.05, 0.1), "keep_every_images": 24}
WHOLE = Training(**{**TINY, **SHORT, **POWERS})
SHARDED = WHOLE.model_copy(update={"fsdp": True})
SPARING = SHARDED.model_copy(update={"checkpoint_activations": True})
PARTS = SHARDED.model_copy(update={"micro_batch_images": 2})


def losses(events) -> list[float]:
    """Of each step its loss and the norm before clipping."""
    return [number for e in events if isinstance(e, Progress) for number in (e.loss, e.grad_norm)]


def net() -> torch.nn.Module:
    return network("unet", attention_resolutions=(8,), updown_blocks=False).double()


def worker(rank: int, folder: str) -> None:
    """All that the test compares, each with its losses beside it."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    warnings.filterwarnings("error", message="FSDP2")
    place = Path(folder)

    def training(name: str, settings: Training, steps: int = 99) -> torch.nn.Module:
        model = net()
        if rank:  # only rank 0's weights count
            torch.nn.init.ones_(model.out[2].weight)
        events = run(place / name, settings, model, stop_after(steps), World.current())
        if rank == 0:
            torch.save(losses(events), place / f"{name}-{len(list(place.glob(name + '-?')))}")
        return model

    parameters = list(training("sharded", SPARING).parameters())
    assert all(map(is_sharded, parameters))
    assert sum(local(p).numel() for p in parameters) < 0.6 * sum(p.numel() for p in parameters)
    training("cut", SHARDED, steps=2)
    training("cut", SHARDED)
    training("from-whole", PARTS)
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


def test_two_processes_in_shards_are_one_whole_and_their_checkpoints_are_of_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "DOUBLED_PIXELS", 16)  # a stage of theirs ends in a view, as one of larger pictures
    expected = losses(run(tmp_path / "whole", WHOLE, net()))
    run(tmp_path / "from-whole", WHOLE, net(), stop=stop_after(2))
    mp.start_processes(worker, args=(str(tmp_path),), nprocs=2, start_method="fork")
    sharded, *cut = (torch.load(tmp_path / name, weights_only=True) for name in ("sharded-0", "cut-0", "cut-1"))
    assert sharded == pytest.approx(expected, abs=1e-6) and [*cut[0], *cut[1]] == sharded
    assert torch.load(tmp_path / "from-whole-0", weights_only=True) == pytest.approx(expected[4:], abs=1e-6)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "sharded")
    for average in ("ema", "ema_1kimg", "ema_power_0.1", "model"):
        one, many, mixed = (load_weights(tmp_path / name, average)[0] for name in ("whole", "sharded", "from-whole"))
        net().load_state_dict(many)
        for key in one:
            torch.testing.assert_close(many[key], one[key], rtol=0, atol=1e-8)
            torch.testing.assert_close(mixed[key], one[key], rtol=0, atol=1e-8)
    longer = WHOLE.model_copy(update={"total_images": 72})
    alone, whole_on = (run(tmp_path / name, longer, net()) for name in ("sharded", "whole"))
    assert alone[0].images_seen == 48 and losses(alone) == pytest.approx(losses(whole_on), abs=1e-6)


def test_shares_must_be_equal_and_alone_there_is_nothing_to_shard() -> None:
    check(SHARDED, World(0, 4))
    check(SHARDED, ALONE)
    with pytest.raises(SettingsError, match=r"with FSDP 5 workers take equal shares, and 12 images have none"):
        check(SHARDED, World(0, 5))
    with pytest.raises(SettingsError, match=r"training.compile: FSDP is not compiled; set one of both to false"):
        check(SHARDED.model_copy(update={"compile": True}), ALONE)

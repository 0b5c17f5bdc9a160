"""Networks whose weights lie in shards, a part on each rank (FSDP2): made, seen from one rank, and put together again.

A sharded tensor has the whole one's name and shape; each rank holds some of its rows. What works on elements works on
each rank's part alone. torch's own import is late: it takes 7 CPU seconds.
"""

import warnings
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def shard(model: nn.Module, blocks: Iterable[nn.Module], device: str | torch.device) -> None:
    """Shards rank 0's weights over all ranks, block by block, in place (collective); one block at a time is whole.

    Gradients are then summed over the ranks by the backward pass itself, into the shards' own `grad`.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # On a CPU a stage that doubles the size ends in a view (`fm.models.blocks.doubled_then`). Torch warns of work in
    # place on it, which would lose the hook that gathers the weights; the U-Net copies it (`torch.cat`).
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module \(FSDPStage\) returned a view tensor")
    mesh = init_device_mesh(torch.device(device).type, (dist.get_world_size(),))
    for module in [*blocks, model]:
        for tensor in [*module.parameters(), *module.buffers()]:
            if not is_sharded(tensor):
                tensor.data = tensor.data.to(device).contiguous()
                dist.broadcast(tensor.data, src=0)
        sharded = fully_shard(module, mesh=mesh)
        sharded.set_gradient_divide_factor(1.0)  # our losses are shares of the global batch: summed, not averaged
        sharded.set_force_sum_reduction_for_comms(True)


def is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, live; any other as it is."""
    return tensor.detach().to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def sharded_as(part: Tensor, tensor: Tensor) -> Tensor:
    """This rank's part of something, sharded as `tensor` is (a parameter: its gradient, its moments); shares memory."""
    if not is_sharded(tensor):
        return part
    from torch.distributed.tensor import DTensor

    layout = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    return DTensor.from_local(part, *layout, run_check=False, shape=tensor.shape, stride=tensor.stride())


def whole(tensor: Tensor) -> Tensor:
    """All rows, on every rank (collective); of any other tensor itself."""
    return tensor.detach().full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


@torch.no_grad()
def fill(tensor: Tensor, value: Tensor | None) -> None:
    """Overwrites a tensor, sharded or not, with rank 0's whole value (collective); that of other ranks is not used."""
    part = local(tensor)
    source = torch.empty(tensor.shape, dtype=part.dtype, device=part.device)
    if dist.get_rank() == 0 and value is not None:
        source.copy_(value)
    if is_sharded(tensor):
        from torch.distributed.tensor import distribute_tensor

        source = local(distribute_tensor(source, tensor.device_mesh, tensor.placements))  # type: ignore[attr-defined]
    else:
        dist.broadcast(source, src=0)
    part.copy_(source)

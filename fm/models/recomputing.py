"""The blocks of a network, worked on from outside: what is recomputed or sharded as one piece."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from fm.models.blocks import Stage


def blocks(model: nn.Module) -> list[nn.Module]:
    """The stages of a U-Net; none of a network without."""
    return [module for module in model.modules() if isinstance(module, Stage)]


def recompute_activations(model: nn.Module) -> None:
    """From now on the backward pass computes what is inside the blocks again, instead of keeping it; dropout included.

    Loss and gradients are the same to the bit; names and shapes of the weights stay.
    """
    for block in blocks(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)

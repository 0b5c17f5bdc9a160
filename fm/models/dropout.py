"""Dropout that is drawn by stream position while a training says so, and is torch's own otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fm import noise


class Dropout(nn.Dropout):
    """nn.Dropout; inside `dropout_at` what it drops of a sample depends on nothing but seed, position and layer."""

    keys: Tensor | None = None  # int32 (batch, 2): of each sample, for this layer

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.keys is None:
            return super().forward(x)
        return x * kept(x, self.keys, self.p) / (1 - self.p)


@contextmanager
def dropout_at(model: nn.Module, seed: int, positions: Tensor) -> Iterator[None]:
    """Inside, the model's Dropout layers drop by (seed, layer, stream position of each sample of the batch).

    The backward pass belongs inside too: blocks that are computed anew drop the same again.
    """
    layers = [module for module in model.modules() if isinstance(module, Dropout) and module.p]
    if layers:
        device = next(model.parameters()).device
        words = noise.words(seed, "dropout", positions, 2 * len(layers), device).to(torch.int32)
        for layer, keys in zip(layers, words.split(2, dim=1), strict=True):
            layer.keys = keys
    try:
        yield
    finally:
        for layer in layers:
            layer.keys = None


def kept(x: Tensor, keys: Tensor, p: float) -> Tensor:
    """Which elements of x (batch, ...) stay, each with probability 1 - p (in 65,536ths): bool, in x's memory order.

    Two elements take their 16 bits from one hash of their place and the sample's key, in a dozen int32 operations that
    are equal on every device: Philox for each element would take as long as a convolution. The multiplications and
    shifts are those of C. Wellons's lowbias32; the keys are Philox words.
    """
    count = x[0].numel()
    first, second = keys[:, :1], keys[:, 1:]
    word = first + torch.arange(-(-count // 2), dtype=torch.int32, device=x.device)
    word ^= (word >> 16) & 0xFFFF
    word *= 0x7FEB352D
    word ^= second
    word ^= (word >> 15) & 0x1FFFF
    word *= 0x846CA68B - 2**32  # as int32, whose products wrap
    word ^= (word >> 16) & 0xFFFF
    bits = word.view(torch.int16)[:, :count].reshape(x.shape)
    return torch.ge(bits, round(p * 2**16) - 2**15, out=torch.empty_like(x, dtype=torch.bool))

"""A plain network of fully connected layers, for 2-D problems (Lipman et al. 2023: 5 layers of 512) and for tests."""

from contextlib import nullcontext
from itertools import pairwise
from math import prod
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fm.errors import SettingsError
from fm.settings import Settings


class MLP(nn.Module):
    """Velocity of points: t joins x as one more input, with `jumps` the time to a step's end too; a class adds its
    embedding to the first layer."""

    def __init__(
        self, features: int, width: int = 512, depth: int = 5, classes: int | None = None, jumps: bool = False
    ) -> None:
        super().__init__()
        self.classes, self.jumps = classes, jumps
        widths = [features + 1 + jumps] + [width] * depth
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.out = nn.Linear(width, features)
        if classes is not None:
            self.label_emb = nn.Embedding(classes, width)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, h: Tensor | None = None) -> Tensor:
        """x (batch, ...), t and h (batch,) or scalar, y (batch,) int, -1 = no label -> like x."""
        left = torch.zeros_like(t) if h is None else h
        told = [part.reshape(-1, 1).expand(len(x), 1).to(x.dtype) for part in ((t, left) if self.jumps else (t,))]
        h = torch.cat([x.flatten(1), *told], dim=1)
        kind = x.device.type
        # bf16 rounds t > 0.998 to 1; the meta device, where networks are counted, has no autocast.
        with nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False):
            h = self.hidden[0](h)
            if y is not None and self.classes is not None:
                h = h + self.label_emb(y.clamp(min=0)) * (y >= 0)[:, None]
        for layer in self.hidden[1:]:
            h = layer(nn.functional.silu(h))
        return self.out(nn.functional.silu(h)).reshape(x.shape)


class MLPSettings(Settings):
    """The 2-D network of a recipe."""

    kind: Literal["mlp"] = "mlp"
    width: int = Field(512, ge=1, le=8192, title="Width", description="units in each hidden layer, 1 to 8192")
    depth: int = Field(5, ge=1, le=64, title="Depth", description="number of hidden layers, 1 to 64")

    def build(
        self, shape: tuple[int, ...], classes: int | None = None, condition_channels: int = 0, jumps: bool = False
    ) -> MLP:
        if condition_channels:
            raise SettingsError("an MLP takes no condition", where="model.kind", mend="use kind unet")
        return MLP(prod(shape), self.width, self.depth, classes, jumps)

"""What ADM's U-Net is built of (Dhariwal & Nichol 2021), under ADM's parameter names and shapes."""

import math
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fm.models.dropout import Dropout

Layer = TypeVar("Layer", bound=nn.Module)
GROUPS = 32  # of every GroupNorm in ADM: widths must be multiples of it
DOUBLED_PIXELS = 64  # fewer do not repay the sums of the kernels


class GroupNorm32(nn.GroupNorm):
    """GroupNorm over 32 groups, computed in float32 at least and handed back in the input's type."""

    def __init__(self, channels: int) -> None:
        super().__init__(GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        return super().forward(x.to(wide)).to(x.dtype)


def zeroed(layer: Layer) -> Layer:
    """The layer with all parameters zero: each residual branch starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def time_embedding(t: Tensor, channels: int, max_period: float = 10_000.0) -> Tensor:
    """cos and sin of t at channels/2 frequencies from 1 down to 1/max_period -> (batch, channels), t's type."""
    half = channels // 2
    steps = torch.arange(half, dtype=t.dtype, device=t.device)
    angles = t[:, None] * torch.exp(-math.log(max_period) / half * steps)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Upsample(nn.Module):
    """Twice the size by repetition; with `conv`, a 3x3 convolution after it."""

    def __init__(self, channels: int, conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if conv else None

    def forward(self, x: Tensor) -> Tensor:
        return doubled_then(self.conv, x) if self.conv else doubled(x)


def doubled(x: Tensor) -> Tensor:
    """Twice the size by repetition."""
    if torch.compiler.is_compiling():  # whose backward pass would add the four pixels of each in any order
        return x[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2).flatten(4, 5).flatten(2, 3)
    return F.interpolate(x, scale_factor=2, mode="nearest")


def doubled_then(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """conv(doubled(x)) of a 3x3 convolution; on a CPU without reading any pixel twice.

    Of 3x3 pixels around one, only 2x2 differ after the doubling, and which depends on whether its row and column are
    even. So four kernels of 2x2 pixels, which are sums of the 3x3, give the four kinds of pixels: 16 products for each
    pixel of x instead of 36.
    """
    if x.device.type != "cpu" or x[0, 0].numel() < DOUBLED_PIXELS:
        return conv(doubled(x))
    rows = torch.stack(two_of_three(conv.weight, 2))
    kernels = torch.stack(two_of_three(rows, 4), dim=1).flatten(0, 2)  # even and odd rows, even and odd columns, out
    bias = None if conv.bias is None else conv.bias.repeat(4)
    h = F.conv2d(x, kernels, bias, padding=1).unflatten(1, (2, 2, -1))
    height, width = x.shape[2:]
    at = [[h[:, i, j, :, i : i + height, j : j + width] for j in (0, 1)] for i in (0, 1)]
    return torch.stack([torch.stack(row, dim=-1).flatten(-2) for row in at], dim=-2).flatten(-3, -2)


def two_of_three(kernel: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The taps along `dim` summed as they meet one pixel of a doubled line: around its even pixels, and its odd."""
    before, at, after = kernel.unbind(dim)
    return torch.stack([before, at + after], dim), torch.stack([before + at, after], dim)


class Downsample(nn.Module):
    """Half the size: by a strided 3x3 convolution, or by the mean of each 2x2."""

    def __init__(self, channels: int, conv: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if conv else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class ResBlock(nn.Module):
    """Two normalised convolutions beside a skip; the embedding enters before the second, as scale and shift or sum."""

    def __init__(
        self, channels: int, out: int, emb: int, dropout: float, scale_shift: bool, resize: type | None = None
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.in_layers = nn.Sequential(GroupNorm32(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.resize = resize(channels, conv=False) if resize else nn.Identity()
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * out if scale_shift else out))
        self.out_layers = nn.Sequential(
            GroupNorm32(out), nn.SiLU(), Dropout(dropout), zeroed(nn.Conv2d(out, out, 3, padding=1))
        )
        self.skip_connection = nn.Identity() if out == channels else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, act = self.in_layers[:2]
        conv = cast(nn.Conv2d, self.in_layers[2])
        h = act(norm(x))
        h = doubled_then(conv, h) if isinstance(self.resize, Upsample) else conv(self.resize(h))
        emb = self.emb_layers(emb).to(h.dtype)[:, :, None, None]
        norm, *rest = self.out_layers
        if self.scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + emb)
        for layer in rest:
            h = layer(h)
        return self.skip_connection(self.resize(x)) + h


class AttentionBlock(nn.Module):
    """Self-attention over all pixels; qkv holds head after head, q, k, v inside each, unless `new_order`: q, k, v after
    one another, the heads inside each."""

    def __init__(self, channels: int, heads: int, new_order: bool = False) -> None:
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = GroupNorm32(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        # As pixels by channels: a view of channels_last memory, and a 1x1 convolution is then one matrix product.
        h = self.norm(x).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        h = F.linear(h, self.qkv.weight[:, :, 0], self.qkv.bias)
        if self.new_order:
            q, k, v = h.view(batch, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = h.view(batch, height * width, self.heads, 3, -1).permute(3, 0, 2, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, height * width, channels)
        h = F.linear(h, self.proj_out.weight[:, :, 0], self.proj_out.bias)
        return x + h.view(batch, height, width, channels).permute(0, 3, 1, 2)


class Stage(nn.ModuleList):
    """One entry of ADM's block lists: its blocks in turn, all but plain convolutions given the embedding."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock | AttentionBlock) else layer(x)
        return x

"""ADM's U-Net as one writes it down from the paper (Dhariwal & Nichol 2021), with nothing done for speed.

Its parameters have our network's names and shapes, so one set of weights serves both.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fm.models import UNetSettings


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


class Resize(nn.Module):
    """Repetition or mean, then or before a convolution where `conv` says so."""

    def __init__(self, channels: int, up: bool, conv: bool) -> None:
        super().__init__()
        self.up = up
        if conv and up:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        elif conv:
            self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            return self.conv(x) if hasattr(self, "conv") else x
        return self.op(x) if hasattr(self, "op") else F.avg_pool2d(x, 2)


class Res(nn.Module):
    def __init__(self, settings: UNetSettings, channels: int, out: int, resize: Resize | None = None) -> None:
        super().__init__()
        self.scale_shift, self.resize = settings.scale_shift, resize
        self.in_layers = nn.Sequential(norm(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        emb = nn.Linear(4 * settings.channels, 2 * out if settings.scale_shift else out)
        self.emb_layers = nn.Sequential(nn.SiLU(), emb)
        dropout, conv = nn.Dropout(settings.dropout), nn.Conv2d(out, out, 3, padding=1)
        self.out_layers = nn.Sequential(norm(out), nn.SiLU(), dropout, conv)
        self.skip_connection = nn.Conv2d(channels, out, 1) if out != channels else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[:2](x)
        if self.resize:
            h, x = self.resize(h), self.resize(x)
        h = self.in_layers[2](h)
        emb = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + emb)
        return self.skip_connection(x) + h


class Attention(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, norm(channels)
        self.qkv, self.proj_out = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        flat = x.flatten(2)
        q, k, v = self.qkv(self.norm(flat)).unflatten(1, (self.heads, -1)).flatten(0, 1).chunk(3, dim=1)
        weights = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / math.sqrt(q.shape[1]), dim=-1)
        h = torch.einsum("bts,bcs->bct", weights, v).reshape(flat.shape)
        return (flat + self.proj_out(h)).view(x.shape)


class PlainADM(nn.Module):
    """ADM by our settings, without labels: model(x, t)."""

    def __init__(self, settings: UNetSettings, size: int) -> None:
        super().__init__()
        self.settings = settings
        channels, widths = settings.channels, [settings.channels * multiple for multiple in settings.multiples]
        emb = 4 * channels
        self.time_embed = nn.Sequential(nn.Linear(channels, emb), nn.SiLU(), nn.Linear(emb, emb))

        def attention(width: int) -> Attention:
            return Attention(width, width // settings.head_channels)

        def level_of(level: int, entering: int) -> nn.ModuleList:
            layers = [Res(settings, entering, widths[level])]
            attends = size >> level in settings.attention_resolutions
            return nn.ModuleList([*layers, attention(widths[level])] if attends else layers)

        def resized(width: int, up: bool) -> nn.Module:
            if settings.updown_blocks:
                return Res(settings, width, width, Resize(width, up, conv=False))
            return Resize(width, up, conv=True)

        width = widths[0]
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(3, width, 3, padding=1)])])
        skips = [width]
        for level in range(len(widths)):
            for _ in range(settings.blocks):
                self.input_blocks.append(level_of(level, width))
                width = widths[level]
                skips.append(width)
            if level + 1 < len(widths):
                self.input_blocks.append(nn.ModuleList([resized(width, up=False)]))
                skips.append(width)
        self.middle_block = nn.ModuleList([Res(settings, width, width), attention(width), Res(settings, width, width)])
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for index in range(settings.blocks + 1):
                layers = level_of(level, width + skips.pop())
                width = widths[level]
                if level and index == settings.blocks:
                    layers.append(resized(width, up=True))
                self.output_blocks.append(layers)
        self.out = nn.Sequential(norm(width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        half = self.settings.channels // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=x.device) / half)
        angles = self.settings.time_scale * t.reshape(-1, 1).expand(len(x), 1) * frequencies
        emb = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))
        skips: list[Tensor] = []
        for layers in self.input_blocks:
            x = through(layers, x, emb)
            skips.append(x)
        x = through(self.middle_block, x, emb)
        for layers in self.output_blocks:
            x = through(layers, torch.cat([x, skips.pop()], dim=1), emb)
        return self.out(x)


def through(layers: nn.ModuleList, x: Tensor, emb: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x, emb) if isinstance(layer, Res | Attention) else layer(x)
    return x

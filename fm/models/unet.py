"""ADM's U-Net (Dhariwal & Nichol 2021) with ADM's parameter names and shapes, so that its weights load strictly.

What differs is invisible in the weights: attention runs through the fused kernel, the time may be scaled before its
sinusoids, and the label -1 stands for "no label" (its embedding is zero), which classifier-free guidance needs.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fm.errors import SettingsError
from fm.models.dropout import Dropout
from fm.settings import Settings

Layer = TypeVar("Layer", bound=nn.Module)
GROUPS = 32  # of every GroupNorm in ADM: widths must be multiples of it


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
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


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
        norm, act, conv = self.in_layers
        h = conv(self.resize(act(norm(x))))
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


class UNet(nn.Module):
    """ADM's network; `attention_resolutions` are in pixels, `time_scale` multiplies t before its sinusoids.

    `heads`, where given, is their number at every level, in place of `head_channels`. Peers' weights keep their scale:
    1 where t ran over [0, 1], 1000 for guided-diffusion; and their order inside qkv, which no shape shows.

    Raises: SettingsError if image_size, channels and heads do not fit together.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        multiples: Sequence[int],
        blocks: int,
        attention_resolutions: Sequence[int],
        head_channels: int,
        dropout: float = 0.0,
        scale_shift: bool = True,
        updown_blocks: bool = True,
        classes: int | None = None,
        in_channels: int = 3,
        out_channels: int = 3,
        time_scale: float = 30.0,
        heads: int | None = None,
        resample_conv: bool = True,
        new_attention_order: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(image_size, channels, multiples, attention_resolutions, head_channels, heads)
        self.channels, self.classes, self.time_scale = channels, classes, time_scale
        emb = 4 * channels
        self.time_embed = nn.Sequential(nn.Linear(channels, emb), nn.SiLU(), nn.Linear(emb, emb))
        if classes is not None:
            self.label_emb = nn.Embedding(classes, emb)
        block = partial(ResBlock, emb=emb, dropout=dropout, scale_shift=scale_shift)
        widths = [channels * multiple for multiple in multiples]

        def attention(width: int) -> AttentionBlock:
            return AttentionBlock(width, heads or width // head_channels, new_attention_order)

        def level_blocks(level: int, entering: int) -> list[nn.Module]:
            attends = image_size >> level in attention_resolutions
            return [block(entering, widths[level]), *([attention(widths[level])] if attends else [])]

        def resized(width: int, resize: type) -> nn.Module:
            return block(width, width, resize=resize) if updown_blocks else resize(width, conv=resample_conv)

        width = widths[0]
        self.input_blocks = nn.ModuleList([Stage([nn.Conv2d(in_channels, width, 3, padding=1)])])
        skips = [width]
        for level in range(len(widths)):
            for _ in range(blocks):
                self.input_blocks.append(Stage(level_blocks(level, width)))
                skips.append(width := widths[level])
            if level < len(widths) - 1:
                self.input_blocks.append(Stage([resized(width, Downsample)]))
                skips.append(width)
        self.middle_block = Stage([block(width, width), attention(width), block(width, width)])
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for index in range(blocks + 1):
                stage = level_blocks(level, width + skips.pop())
                width = widths[level]
                if level and index == blocks:
                    stage.append(resized(width, Upsample))
                self.output_blocks.append(Stage(stage))
        self.out = nn.Sequential(GroupNorm32(width), nn.SiLU(), zeroed(nn.Conv2d(width, out_channels, 3, padding=1)))

    def embed(self, t: Tensor, y: Tensor | None) -> Tensor:
        """Embedding of time and label (batch, 4 channels): float32 under autocast too; bf16 rounds t > 0.998 to 1."""
        kind = t.device.type
        with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
            t = t.to(next(self.time_embed.parameters()).dtype)
            emb = self.time_embed(time_embedding(self.time_scale * t, self.channels))
            if y is not None and self.classes is not None:
                emb = emb + self.label_emb(y.clamp(min=0)) * (y >= 0)[:, None]
        return emb

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x (batch, in_channels, height, width), t (batch,) or scalar, y (batch,) int, -1 = none -> out_channels."""
        emb = self.embed(t.reshape(-1).expand(len(x)), y)
        h, skips = x, []
        for stage in self.input_blocks:
            h = stage(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, skips.pop()], dim=1), emb)
        return self.out(h).to(x.dtype)


def check_sizes(
    image_size: int,
    channels: int,
    multiples: Sequence[int],
    attention_resolutions: Sequence[int],
    head_channels: int,
    heads: int | None = None,
) -> None:
    """Refuses sizes that the network cannot halve, group or cut into heads, each in one sentence."""
    divisor = 2 ** (len(multiples) - 1)
    if image_size % divisor:
        chain = "-".join(map(str, multiples))
        raise SettingsError(
            f"image size {image_size} is not divisible by {divisor}, as the multiples {chain} require",
            where="model.multiples",
            mend=f"choose a size that is a multiple of {divisor}, or fewer multiples",
        )
    if channels % GROUPS:
        raise SettingsError(f"{channels} channels are not a multiple of {GROUPS}", where="model.channels")
    sizes = [image_size >> level for level in range(len(multiples))]
    if missing := [size for size in attention_resolutions if size not in sizes]:
        raise SettingsError(
            f"no level of the network is {missing[0]} px wide",
            where="model.attention_resolutions",
            mend=f"its levels are {', '.join(map(str, sizes))} px",
        )
    widths = {channels * m for m, size in zip(multiples, sizes, strict=True) if size in attention_resolutions}
    for width in sorted(widths | {channels * multiples[-1]}):
        if heads and width % heads:
            raise SettingsError(f"{heads} heads do not divide a level of {width}", where="model.heads")
        if not heads and width % head_channels:
            raise SettingsError(
                f"heads of {head_channels} channels do not divide a level of {width}", where="model.head_channels"
            )


class UNetSettings(Settings):
    """The image network of a recipe."""

    kind: Literal["unet"] = "unet"
    channels: int = Field(
        128,
        ge=32,
        le=1024,
        multiple_of=32,
        title="Channels",
        description="at the first level, 32 to 1024 in steps of 32",
    )
    multiples: tuple[int, ...] = Field(
        (1, 2, 2, 2),
        min_length=1,
        max_length=8,
        title="Multiples",
        description="of the channels, one for each level, 1 to 8 levels; each level halves the size",
    )
    blocks: int = Field(2, ge=1, le=8, title="Blocks", description="residual blocks in each level, 1 to 8")
    attention_resolutions: tuple[int, ...] = Field(
        (16,), title="Attention at", description="sizes in pixels at which attention is added; the middle always has it"
    )
    head_channels: int = Field(
        64, ge=1, le=1024, title="Head channels", description="channels of one attention head, 1 to 1024"
    )
    heads: int | None = Field(
        None,
        ge=1,
        le=64,
        title="Heads",
        description="at every level, in place of head channels, 1 to 64; empty = by head channels",
    )
    new_attention_order: bool = Field(
        False,
        title="New attention order",
        description="q, k, v of all heads after one another, as some peers' weights have them",
    )
    dropout: float = Field(0.0, ge=0.0, lt=1.0, title="Dropout", description="probability, 0 to below 1")
    scale_shift: bool = Field(
        True, title="Scale and shift", description="the embedding scales and shifts each block, instead of being added"
    )
    updown_blocks: bool = Field(
        True, title="Up/down blocks", description="sizes change inside residual blocks, instead of in convolutions"
    )
    resample_conv: bool = Field(
        True,
        title="Resampling convolutions",
        description="without up/down blocks, sizes change in convolutions, instead of by repetition and mean alone",
    )
    time_scale: float = Field(
        30.0,
        gt=0.0,
        le=10_000.0,
        title="Time scale",
        description="t is multiplied by it before its sinusoids, to 10000",
    )

    def build(self, shape: tuple[int, ...], classes: int | None = None) -> UNet:
        """The network for square images (channels, size, size).

        Raises: SettingsError if the shape is not square or does not fit the multiples.
        """
        if len(shape) != 3 or shape[1] != shape[2]:
            raise SettingsError(
                f"data of shape {shape} given to a U-Net, which wants square images", where="model", mend="use kind mlp"
            )
        knobs = self.model_dump(exclude={"kind"})
        return UNet(image_size=shape[1], in_channels=shape[0], out_channels=shape[0], classes=classes, **knobs)

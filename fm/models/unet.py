"""ADM's U-Net (Dhariwal & Nichol 2021) with ADM's parameter names and shapes, so that its weights load strictly.

What differs is invisible in the weights: attention runs through the fused kernel, the time may be scaled before its
sinusoids, and the label -1 stands for "no label" (its embedding is zero), which classifier-free guidance needs.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from fm.errors import SettingsError
from fm.models.blocks import (
    GROUPS,
    AttentionBlock,
    Downsample,
    GroupNorm32,
    ResBlock,
    Stage,
    Upsample,
    time_embedding,
    zeroed,
)
from fm.settings import Settings


class UNet(nn.Module):
    """ADM's network; `attention_resolutions` are in pixels, `time_scale` multiplies t before its sinusoids.

    `heads`, where given, is their number at every level, in place of `head_channels`. Peers' weights keep their scale:
    1 where t ran over [0, 1], 1000 for guided-diffusion; and their order inside qkv, which no shape shows.
    With `patch` p the network sees each p x p pixels as one of p^2 times the channels: levels, and the pixels of
    `attention_resolutions`, are then p times coarser than the image. With `input_skip` a multiple of the input (of
    state and condition one each, where `in_channels` holds both), learned as a function of the time, is added to the
    output: few channels need not carry the noise through all layers. With `jumps` it is told h too, the time to where a
    step ends; at first it does not heed it.

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
        patch: int = 1,
        input_skip: bool = False,
        jumps: bool = False,
    ) -> None:
        super().__init__()
        check_patch(image_size, patch)
        image_size //= patch
        check_sizes(image_size, channels, multiples, attention_resolutions, head_channels, heads)
        self.channels, self.classes, self.time_scale, self.patch = channels, classes, time_scale, patch
        self.in_channels = in_channels
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
        self.input_blocks = nn.ModuleList([Stage([nn.Conv2d(in_channels * patch**2, width, 3, padding=1)])])
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
        last = nn.Conv2d(width, out_channels * patch**2, 3, padding=1)
        self.out = nn.Sequential(GroupNorm32(width), nn.SiLU(), zeroed(last))
        self.input_skip = zeroed(nn.Linear(emb, in_channels // out_channels)) if input_skip else None
        if jumps:  # last, so that all other weights begin as those of the same network without
            self.jump_embed = nn.Sequential(nn.Linear(channels, emb), nn.SiLU(), zeroed(nn.Linear(emb, emb)))

    def embed(self, t: Tensor, y: Tensor | None, h: Tensor | None = None) -> Tensor:
        """Embedding of time, label and jump (batch, 4 channels): float32 under autocast too; bf16 rounds t > 0.998
        to 1."""
        kind = t.device.type
        with nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False):
            t = t.to(next(self.time_embed.parameters()).dtype)
            emb = self.time_embed(time_embedding(self.time_scale * t, self.channels))
            if y is not None and self.classes is not None:
                emb = emb + self.label_emb(y.clamp(min=0)) * (y >= 0)[:, None]
            if hasattr(self, "jump_embed"):
                left = torch.zeros_like(t) if h is None else h.to(t.dtype)
                emb = emb + self.jump_embed(time_embedding(self.time_scale * left, self.channels))
        return emb

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, h: Tensor | None = None) -> Tensor:
        """x (batch, in_channels, height, width), t (batch,) or scalar, y (batch,) int, -1 = none, h (batch,) of a
        network that jumps -> out_channels."""
        emb = self.embed(t.reshape(-1).expand(len(x)), y, h)
        h, skips = pixel_unshuffle(x, self.patch) if self.patch > 1 else x, []
        for stage in self.input_blocks:
            h = stage(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, skips.pop()], dim=1), emb)
        h = self.out(h).to(x.dtype)
        h = pixel_shuffle(h, self.patch) if self.patch > 1 else h
        if self.input_skip is None:
            return h
        parts = x.unflatten(1, (-1, h.shape[1]))
        return h + (self.input_skip(emb).to(x.dtype)[:, :, None, None, None] * parts).sum(1)


def check_patch(image_size: int, patch: int) -> None:
    """Raises: SettingsError for patches that do not tile the image."""
    if image_size % patch:
        raise SettingsError(f"patches of {patch} px do not tile images of {image_size} px", where="model.patch")


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
    patch: int = Field(
        1,
        ge=1,
        le=16,
        title="Patch",
        description="pixels of a side that the network takes as one, 1 to 16: patch^2 times cheaper, and coarser",
    )

    input_skip: bool = Field(
        False,
        title="Input skip",
        description="adds a multiple of the input, which the time decides: few channels need not carry the noise",
    )

    def build(
        self, shape: tuple[int, ...], classes: int | None = None, condition_channels: int = 0, jumps: bool = False
    ) -> UNet:
        """The network for square images (channels, size, size), told so many more channels of the same size, and with
        `jumps` where a step ends.

        Raises: SettingsError if the shape is not square or does not fit the multiples.
        """
        if len(shape) != 3 or shape[1] != shape[2]:
            raise SettingsError(
                f"data of shape {shape} given to a U-Net, which wants square images", where="model", mend="use kind mlp"
            )
        knobs = self.model_dump(exclude={"kind"})
        return UNet(
            image_size=shape[1],
            in_channels=shape[0] + condition_channels,
            out_channels=shape[0],
            classes=classes,
            jumps=jumps,
            **knobs,
        )

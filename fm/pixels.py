"""Bytes <-> [-1, 1): the only place that knows the 128.

Training, likelihood and decoding share this map, equation (36) and the dequantisation of equation (47), so that a
likelihood of the network is a likelihood of the pictures it draws. The usual k/127.5 - 1 does not have that property.
"""

import math

import torch
from torch import Tensor

from fm.errors import ValueUserError

LEVELS = 256
BITS_OFFSET = math.log2(LEVELS / 2)  # bits/dim = 7 - log2 p(x) / D: each level is a cell of width 2/256


def to_unit(images: Tensor, u: float | Tensor = 0.5) -> Tensor:
    """(k + u)/128 - 1 in [-1, 1) for levels k, any shape, uint8 -> float (u's dtype, or float32).

    u in [0, 1) is the place inside the level's cell: uniform noise dequantises, 0.5 is the cell's centre. In float32 it
    is cut at 1 - 2^-16, beyond which level and place do not fit into 24 bits and round to the next level.

    Raises: ValueUserError if the images are not uint8, or u is of half precision.
    """
    if images.dtype != torch.uint8:
        raise ValueUserError(f"images of dtype {images.dtype} given where uint8 levels 0..255 are due")
    dtype = u.dtype if isinstance(u, Tensor) else torch.float32
    if dtype in (torch.bfloat16, torch.float16):
        raise ValueUserError(f"u of dtype {dtype} given, which cannot hold 256 levels and a place", where="u")
    if isinstance(u, Tensor) and dtype == torch.float32:
        u = u.clamp(max=1 - 2**-16)
    return (images.to(dtype) + u) / (LEVELS / 2) - 1


def to_pixels(x: Tensor) -> Tensor:
    """floor((x + 1) 128) clipped to 0..255, uint8: the inverse of `to_unit` for every u in [0, 1)."""
    if not x.is_floating_point():
        raise ValueUserError(f"a tensor of dtype {x.dtype} given where floats in [-1, 1) are due")
    return ((x + 1) * (LEVELS / 2)).floor().clamp(0, LEVELS - 1).to(torch.uint8)

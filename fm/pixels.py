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

    u in [0, 1) is the place inside the level's cell: uniform noise dequantises, 0.5 is the cell's centre.

    Raises: ValueUserError if the images are not uint8.
    """
    if images.dtype != torch.uint8:
        raise ValueUserError(f"images of dtype {images.dtype} given where uint8 levels 0..255 are due")
    dtype = u.dtype if isinstance(u, Tensor) else torch.float32
    return (images.to(dtype) + u) / (LEVELS / 2) - 1


def to_pixels(x: Tensor) -> Tensor:
    """floor((x + 1) 128) clipped to 0..255, uint8: the inverse of `to_unit` for every u in [0, 1)."""
    if not x.is_floating_point():
        raise ValueUserError(f"a tensor of dtype {x.dtype} given where floats in [-1, 1) are due")
    return ((x + 1) * (LEVELS / 2)).floor().clamp(0, LEVELS - 1).to(torch.uint8)

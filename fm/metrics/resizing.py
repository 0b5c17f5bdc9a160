"""The resizes of published feature distances, batched on any device.

A separable resize is two matrix products: one with the weights of the rows, one with those of the columns. What a
protocol resizes inside its network's file (TensorFlow's rule) is not here.
"""

from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


def pillow_bicubic(images: Tensor, size: int) -> Tensor:
    """Levels (n, c, h, w) -> float32 (n, c, size, size) in 0..255, as Pillow resizes a float32 channel by BICUBIC.

    This is clean-fid's `clean` (Parmar et al. 2022): antialiased, not rounded, clipped. Within 1e-4 of a level.
    """
    rows, columns = (_weights(length, size, str(images.device)) for length in images.shape[2:])
    return (rows @ images.float() @ columns.T).clamp(0, 255)


@cache
def _weights(length: int, size: int, device: str) -> Tensor:
    """(size, length) float32: Pillow's own weights, which are what it makes of the unit vectors."""
    units = Image.fromarray(np.eye(length, dtype=np.float32))
    return torch.tensor(np.asarray(units.resize((size, length), Image.Resampling.BICUBIC)).T, device=device)


def torch_bilinear(images: Tensor, size: int) -> Tensor:
    """Levels (n, c, h, w) -> float32 (n, c, size, size) by torch's bilinear, pixel centres aligned, not antialiased.

    This is pytorch-fid's, and clean-fid's `legacy_pytorch`: pictures that shrink alias (Parmar et al. 2022).
    """
    return F.interpolate(images.float(), size=(size, size), mode="bilinear", align_corners=False)

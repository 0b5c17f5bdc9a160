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


def torch_bicubic(images: Tensor, size: int) -> Tensor:
    """Levels (n, c, h, w) -> float32 (n, c, size, size) in 0..255 by torch's bicubic, antialiased."""
    x = images.to(torch.float32)
    if x.shape[2:] != (size, size):
        x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    return x.clamp(0, 255)


def pillow_bicubic_rounded(images: Tensor, size: int) -> Tensor:
    """Levels uint8 (n, 3, h, w) -> uint8 (n, 3, size, size) by Pillow's own BICUBIC of an RGB picture, on a CPU.

    This is what torchvision makes of a Pillow picture: antialiased, each of the two passes rounded to whole levels.
    """
    pictures = images.permute(0, 2, 3, 1).cpu().numpy()
    resized = [np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BICUBIC)) for p in pictures]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(images.device)

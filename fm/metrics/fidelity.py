"""How near a picture is to the one that it should be: PSNR and SSIM, image by image, as scikit-image has them."""

import torch
from torch import Tensor

from fm.errors import ValueUserError

LEVELS = 255.0
SIGMA, RADIUS = 1.5, 5  # of SSIM's Gaussian window, 11 pixels wide
K1, K2 = 0.01, 0.03
AT_ONCE = 8  # pictures, which bounds the memory


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image, float64 (n,): 10 log10(255^2 / mean squared error over pixels and
    channels); of an image that is equal to its truth that of an error of half a level in one value.

    images and truth uint8 (n, channels, height, width). Raises: ValueUserError for other dtypes or shapes.
    """
    a, b = _checked(images, truth)
    error = (a - b).square().flatten(1)
    # Infinity would swallow every mean: an equal image counts as better than any that differs.
    return 10 * torch.log10(LEVELS**2 / error.mean(1).clamp(min=0.25 / error.shape[1]))


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each image, float64 (n,), at most 1: the mean over channels and over the pixels whose
    whole window lies inside, window a Gaussian of s.d. 1.5 cut at 11 pixels (Wang et al. 2004).

    images and truth uint8 (n, channels, height, width). Raises: ValueUserError for other dtypes or shapes, and for
    images smaller than the window.
    """
    a, b = _checked(images, truth)
    if min(a.shape[-2:]) <= 2 * RADIUS:
        raise ValueUserError(f"images of {tuple(a.shape[-2:])} given to SSIM, whose window is {2 * RADIUS + 1} px wide")
    return torch.cat([_ssim(*pair) for pair in zip(a.split(AT_ONCE), b.split(AT_ONCE), strict=True)])


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    mean_a, mean_b = _blurred(a), _blurred(b)
    var_a, var_b = _blurred(a * a) - mean_a**2, _blurred(b * b) - mean_b**2
    covariance = _blurred(a * b) - mean_a * mean_b
    c1, c2 = (K1 * LEVELS) ** 2, (K2 * LEVELS) ** 2
    alike = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (alike / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).flatten(1).mean(1)


def _blurred(x: Tensor) -> Tensor:
    """Gaussian means (n, channels, height, width) of the windows that lie inside, rows after columns."""
    weights = torch.exp(-0.5 * (torch.arange(-RADIUS, RADIUS + 1, dtype=x.dtype) / SIGMA) ** 2)
    for dim in (-2, -1):  # sums of shifted pictures: float64 has no fast convolution
        inside = x.shape[dim] - 2 * RADIUS
        x = sum(w * x.narrow(dim, i, inside) for i, w in enumerate((weights / weights.sum()).tolist()))
    return x


def _checked(images: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    if images.dtype != torch.uint8 or truth.dtype != torch.uint8 or images.shape != truth.shape or images.ndim != 4:
        given = f"{tuple(images.shape)} of {images.dtype} and {tuple(truth.shape)} of {truth.dtype}"
        raise ValueUserError(f"{given} given where two of (n, channels, height, width), uint8, are due")
    return images.cpu().double(), truth.cpu().double()

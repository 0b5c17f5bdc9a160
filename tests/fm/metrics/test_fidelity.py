"""PSNR and SSIM are scikit-image's, image by image."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from fm.data import open_source
from fm.data.decode import decode
from fm.enlarging import bicubic, shrunk
from fm.errors import ValueUserError
from fm.metrics import psnr, ssim


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    """Eight tiles of photographs, uint8 (8, 3, 64, 64)."""
    source = open_source("photos:?tiles=8")
    pictures = [decode(source.read(item)).resize((64, 64)) for item in source.items()]
    return torch.from_numpy(np.stack([np.asarray(one) for one in pictures])).permute(0, 3, 1, 2)


def skimages(images: torch.Tensor, truth: torch.Tensor) -> tuple[list[float], list[float]]:
    pairs = [(a.permute(1, 2, 0).numpy(), b.permute(1, 2, 0).numpy()) for a, b in zip(images, truth, strict=True)]
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    likeness = [structural_similarity(b, a, channel_axis=2, **window) for a, b in pairs]
    return [peak_signal_noise_ratio(b, a) for a, b in pairs], likeness


def test_of_bicubic_enlarging_they_are_scikit_images(photos: torch.Tensor) -> None:
    enlarged = bicubic(shrunk(photos, 16), 64)
    due = skimages(enlarged, photos)
    for found, expected in zip((psnr(enlarged, photos), ssim(enlarged, photos)), due, strict=True):
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)
    assert float(psnr(enlarged, photos).min()) > 10 and float(ssim(enlarged, photos).max()) < 1


def test_of_noise_too() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(256, (3, 1, 20, 33), generator=generator, dtype=torch.uint8) for _ in range(2))
    torch.testing.assert_close(psnr(a, b), torch.tensor(skimages(a, b)[0], dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(ssim(a, b), torch.tensor(skimages(a, b)[1], dtype=torch.float64), rtol=0, atol=1e-6)


def test_an_equal_image_is_better_than_any_other_and_finite(photos: torch.Tensor) -> None:
    nearest = photos.clone()
    nearest[:, 0, 0, 0] ^= 1
    assert bool((psnr(photos, photos) > psnr(nearest, photos)).all()) and bool(psnr(photos, photos).isfinite().all())
    torch.testing.assert_close(ssim(photos, photos), torch.ones(len(photos), dtype=torch.float64))
    one = torch.zeros(1, 1, 11, 11, dtype=torch.uint8)
    assert float(psnr(one, one + 255)[0]) == 0.0


@pytest.mark.parametrize(
    ("image", "truth"),
    [
        (torch.zeros(2, 3, 16, 16), torch.zeros(2, 3, 16, 16, dtype=torch.uint8)),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.zeros(1, 3, 16, 16, dtype=torch.uint8)),
    ],
)
def test_what_is_no_pair_is_refused(image: torch.Tensor, truth: torch.Tensor) -> None:
    with pytest.raises(ValueUserError, match="given where two of"):
        psnr(image, truth)
    with pytest.raises(ValueUserError, match="whose window is 11 px wide"):
        ssim(*(torch.zeros(1, 3, 8, 8, dtype=torch.uint8) for _ in range(2)))

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fm.metrics.resizing import pillow_bicubic, pillow_bicubic_rounded, torch_bicubic, torch_bilinear


def pictures(height: int, width: int) -> np.ndarray:
    """Noise and its extremes, whose bicubic goes below 0 and above 255: (2, height, width, 3)."""
    noise = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)
    return np.stack([noise, (noise > 127).astype(np.uint8) * 255])


def by_pillow(picture: np.ndarray, size: int) -> np.ndarray:
    channels = [Image.fromarray(picture[..., c].astype(np.float32)) for c in range(3)]
    return np.stack([np.asarray(c.resize((size, size), Image.Resampling.BICUBIC)).clip(0, 255) for c in channels])


def furthest(height: int, width: int, size: int) -> float:
    """The largest difference to Pillow, in levels."""
    given = pictures(height, width)
    ours = pillow_bicubic(torch.from_numpy(given).permute(0, 3, 1, 2), size)
    return max(np.abs(ours[i].numpy() - by_pillow(given[i], size)).max() for i in range(len(given)))


SHAPES = [(28, 28), (32, 32), (64, 64), (128, 128), (299, 299), (512, 512), (31, 33), (299, 57), (511, 301), (1, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_bicubic_is_pillows(shape):
    assert furthest(*shape, 299) < 1e-3


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 200))
def test_bicubic_is_pillows_at_any_size(height, width, size):
    assert furthest(height, width, size) < 1e-3


@pytest.mark.parametrize("shape", [(28, 28), (64, 64), (299, 299), (512, 512), (301, 57)])
def test_bilinear_is_that_of_clean_fids_legacy_pytorch(shape):
    from cleanfid.resize import build_resizer

    given = pictures(*shape)
    ours = torch_bilinear(torch.from_numpy(given).permute(0, 3, 1, 2), 299).permute(0, 2, 3, 1)
    for picture, resized in zip(given, ours, strict=True):
        assert np.abs(resized.numpy() - build_resizer("legacy_pytorch")(picture)).max() < 1e-3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [224, 299])
def test_the_rounded_bicubic_is_that_of_a_pillow_picture(shape, size):
    given = pictures(*shape)
    ours = pillow_bicubic_rounded(torch.from_numpy(given).permute(0, 3, 1, 2), size)
    for picture, resized in zip(given, ours.permute(0, 2, 3, 1), strict=True):
        peer = Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC)
        assert np.array_equal(resized.numpy(), np.asarray(peer))


def test_the_rounded_one_is_not_the_exact_one():
    given = torch.from_numpy(pictures(64, 64)).permute(0, 3, 1, 2)
    apart = (pillow_bicubic_rounded(given, 299) - pillow_bicubic(given, 299)).abs()
    assert apart.max() > 0.4


@pytest.mark.parametrize("shape", [(28, 28), (512, 512), (301, 57)])
def test_torchs_bicubic_is_the_exact_one_up_to_its_kernel(shape):
    """Both antialias; torch's kernel is Pillow's where a picture shrinks or grows."""
    given = torch.from_numpy(pictures(*shape)).permute(0, 3, 1, 2)
    assert (torch_bicubic(given, 128) - pillow_bicubic(given, 128)).abs().max() < 1e-2
    assert torch.equal(torch_bicubic(given, 28), given.float()) if shape == (28, 28) else True

"""What stands in for Inception's files in tests: a small network with the interface of `inception-2015-12-05.pt`, and
seeded weights of pytorch-fid's whole architecture; and pictures to compare peers on.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from fm.metrics import FEATURES, inception, score
from fm.metrics.weights import VARIABLE, Weights
from fm.noise import uniforms


class SmallInception(nn.Module):
    """2,048 features of one strided convolution, fine enough to tell two resizes apart; weights seeded."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        first = nn.Conv2d(3, 8, 5, stride=3)
        first.weight.data = torch.randn(first.weight.shape, generator=generator) / 75**0.5
        self.layers = nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(16), nn.Flatten())
        self.output = nn.Linear(2048, 1008)
        self.output.weight.data = torch.randn(1008, 2048, generator=generator) / 20

    def forward(
        self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        """TensorFlow 1's resize: pixel i is taken at i times the scale, past the last pixel it repeats."""
        n, _, height, width = img.shape
        shift = torch.tensor([[1.0, 0.0, 1 / width - 1 / 299], [0.0, 1.0, 1 / height - 1 / 299]])
        grid = F.affine_grid(shift.expand(n, 2, 3), [n, 3, 299, 299], align_corners=False)
        resized = F.grid_sample(img, grid, mode="bilinear", padding_mode="border", align_corners=False)
        features = self.layers((resized - 128) / 128)
        if return_features:
            return features
        bias = torch.zeros(1008) if no_output_bias else self.output.bias
        return F.linear(features, self.output.weight, bias).softmax(1)


def published(monkeypatch: pytest.MonkeyPatch, weights: Weights, file: Path) -> Weights:
    """Lets this file pass for the published one, in every network that is made from it."""
    content = file.read_bytes()
    known = replace(weights, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    for name, network in FEATURES.items():
        if network.weights == weights:
            monkeypatch.setitem(FEATURES, name, replace(network, weights=known))
    if inception.CLASSES.weights == weights:
        monkeypatch.setattr(inception, "CLASSES", replace(inception.CLASSES, weights=known))
    monkeypatch.setenv(VARIABLE, str(file.parent))
    monkeypatch.setenv("FM_CACHE", str(file.parent / "cache"))
    score._classes.cache_clear()
    return known


def seeded_state() -> dict[str, Tensor]:
    """Weights of pytorch-fid's architecture under which every layer keeps its scale, as trained ones do."""
    generator = torch.Generator().manual_seed(0)
    heads = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    state = {**inception.pytorch_fid().state_dict(), **heads}
    for name, values in state.items():
        if values.ndim > 1:
            state[name] = torch.randn(values.shape, generator=generator) * (2 / values[0].numel()) ** 0.5
    return state


def pictures(seed: int, shape: tuple[int, int], count: int = 40) -> np.ndarray:
    """Blotches of three sizes with edges, uint8 (count, height, width, 3)."""
    total = torch.zeros(count, 3, *shape)
    for size in (2, 5, 11):
        coarse = uniforms(seed, f"blotches/{size}", torch.arange(count), (3, size, size))
        total += F.interpolate(coarse, size=shape, mode="nearest")
    return (total / 3 * 255).round().byte().permute(0, 2, 3, 1).numpy()


def folder(place: Path, images: np.ndarray) -> str:
    """The pictures (n, height, width, 3) as PNGs."""
    place.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(place / f"{i:04d}.png")
    return str(place)

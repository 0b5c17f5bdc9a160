"""A small network with the interface of `inception-2015-12-05.pt`, to stand where that file is expected."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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

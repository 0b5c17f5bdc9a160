"""The network's parts, against what they stand for."""

import pytest
import torch
from torch import nn

from fm.models.blocks import DOUBLED_PIXELS, doubled, doubled_then


@pytest.mark.parametrize("height, width", [(8, 8), (7, 12), (2, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_of_doubled_pixels_and_its_gradients_are_as_written(height: int, width: int, bias: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=bias).double()
    x = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    wrt = [x, *conv.parameters()]
    found, expected = doubled_then(conv, x), conv(doubled(x))
    assert (2 * 3 < DOUBLED_PIXELS < 7 * 12) and found.is_contiguous()
    torch.testing.assert_close(found, expected)
    along = torch.randn_like(expected)
    torch.testing.assert_close(torch.autograd.grad(found, wrt, along), torch.autograd.grad(expected, wrt, along))

import pytest
import torch

from fm.errors import ValueUserError
from fm.metrics import Features


def features(network, **options) -> Features:
    return Features("test", "", "", network, **options)


def test_pictures_come_in_fixed_batches_and_grey_ones_as_rgb():
    seen = []
    described = features(lambda x: seen.append(tuple(x.shape)) or x.float().mean((2, 3)), batch=4)
    grey = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 1, 2, 5)
    assert torch.equal(described(grey), torch.arange(10.0)[:, None].expand(10, 3))
    assert seen == [(4, 3, 2, 5), (4, 3, 2, 5), (2, 3, 2, 5)]


def test_arithmetic_is_not_rounded_to_tf32_and_nothing_is_kept_for_gradients():
    def network(x: torch.Tensor) -> torch.Tensor:
        assert not torch.backends.cudnn.allow_tf32 and torch.is_inference_mode_enabled()
        return x.float().flatten(1) @ torch.ones(12, 2, requires_grad=True)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert features(network)(torch.full((1, 3, 2, 2), 253, dtype=torch.uint8)).tolist() == [[3036, 3036]]


def test_what_is_no_picture_is_refused():
    with pytest.raises(ValueUserError, match="uint8"):
        features(lambda x: x)(torch.zeros(2, 3, 8, 8))

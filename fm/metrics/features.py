"""The networks whose activations describe a picture, for distances between sets of pictures.

A network comes from an installed package or from a file that is given; nothing is downloaded at run time.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fm.errors import member
from fm.lineage import digest
from fm.metrics import dinov2, efficientnet, inception
from fm.metrics.network import FeatureNetwork, Features
from fm.metrics.resizing import torch_bicubic
from fm.metrics.weights import Seeded
from fm.noise import draws


def load_features(name: str, device: str = "cpu") -> Features:
    """The feature network of that name, ready on the device.

    Raises: SettingsError for an unknown name; UserError if its package or file is missing or another one.
    """
    return member(name, FEATURES, "features").load(device)


def check_features(name: str, where: str = "") -> str:
    """The SHA-256 of the weights of that network, as `Features.weights` will say, without loading it.

    Cheap enough to be asked before a training: it reads and hashes the file, 0.1 to 3 s, and builds no network.

    Raises: SettingsError for an unknown name, at the setting `where`; UserError if the file is missing or another one.
    """
    return member(name, FEATURES, "features", where).weights.check()


def identity_of(name: str) -> str:
    """`Features.identity` of the network of that name, without loading it; errors as `check_features` raises them."""
    return digest(name, check_features(name), FEATURES[name].preprocessing)


def random_conv(content: bytes, device: str) -> Callable[[Tensor], Tensor]:
    """An untrained two-layer network with fixed weights (n, 64): a baseline that any trained features have to beat."""
    kernels = [draws(0, f"random_conv/{i}", torch.arange(64), shape) for i, shape in enumerate([(3, 5, 5), (64, 3, 3)])]
    first, second = (k.div(k[0].numel() ** 0.5).to(device) for k in kernels)

    def network(images: Tensor) -> Tensor:
        x = F.relu(F.conv2d(torch_bicubic(images, 32) / 128 - 1, first, stride=2))
        return F.relu(F.conv2d(x, second, stride=2)).mean((2, 3))

    return network


RANDOM_CONV = FeatureNetwork(
    "random_conv",
    Seeded("none, drawn from a seed", digest("random_conv", 0)),
    "bicubic antialiased to 32 px in float32, k/128 - 1, second layer averaged over space",
    64,
    random_conv,
)
FEATURES: dict[str, FeatureNetwork] = {
    network.name: network
    for network in (
        dinov2.VITL14,
        efficientnet.LITE0,
        efficientnet.LITE0_B7,
        inception.CLEAN,
        inception.LEGACY_PYTORCH,
        inception.LEGACY_TENSORFLOW,
        RANDOM_CONV,
    )
}

"""Inception-v3 of 2015-12-05 as the published FID protocols use it: resize, level rule and network of each.

The network comes from a file that the user brings (`fm.metrics.weights`). What guided-diffusion's evaluator does at
any size, and so the rule for 128 px and above, is `inception_legacy_tensorflow`: same network, same resize.
"""

import io
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from fm.errors import UserError
from fm.metrics.network import FeatureNetwork
from fm.metrics.resizing import pillow_bicubic, torch_bilinear
from fm.metrics.weights import Weights

SIZE = 299
BATCH = 32
# NVIDIA's translation of the TensorFlow graph to TorchScript, which clean-fid downloads to /tmp.
TORCHSCRIPT = Weights(
    "inception-2015-12-05.pt",
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    95_607_719,
    Path("/tmp"),
)
# pytorch-fid's translation, which torch.hub downloads; the name holds the first digits of its hash.
STATE_DICT = Weights(
    "pt_inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    95_628_359,
    Path(torch.hub.get_dir()) / "checkpoints",
)
TF1 = (
    "TensorFlow 1's bilinear (pixel i taken at i times the scale, not antialiased) to 299 px in float32, not rounded, "
    "inside the network's file; (k - 128)/128"
)


def clean(content: bytes, device: str) -> Callable[[Tensor], Tensor]:
    """clean-fid's mode `clean` (Parmar et al. 2022): 2,048 features of pictures resized by Pillow in float32."""
    network = _torchscript(content, device)
    return lambda images: network.layers((pillow_bicubic(images, SIZE) - 128) / 128).flatten(1)


def legacy_tensorflow(content: bytes, device: str) -> Callable[[Tensor], Tensor]:
    """clean-fid's mode `legacy_tensorflow`, and guided-diffusion's evaluator: 2,048 features, TensorFlow 1's resize."""
    network = _torchscript(content, device)
    return lambda images: network(images.float(), return_features=True).flatten(1)


def classes(content: bytes, device: str) -> Callable[[Tensor], Tensor]:
    """Probabilities of the 1,008 classes for the Inception Score (Salimans et al. 2016): logits without their bias.

    The bias is left out as in the authors' code, which multiplies the 2,048 features by the weights alone.
    """
    network = _torchscript(content, device)
    return lambda images: network(images.float(), no_output_bias=True).flatten(1)


def legacy_pytorch(content: bytes, device: str) -> Callable[[Tensor], Tensor]:
    """pytorch-fid, and clean-fid's mode `legacy_pytorch`: 2,048 features of pictures resized by torch's bilinear.

    Raises: UserError if clean-fid or torchvision is not installed.
    """
    network = pytorch_fid(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)).to(device)
    return lambda images: network(2 * (torch_bilinear(images, SIZE) / 255) - 1)


def pytorch_fid(state: dict[str, Tensor] | None = None) -> nn.Module:
    """pytorch-fid's network with these weights (None: as they come), (n, 3, 299, 299) in -1..1 -> (n, 2048).

    It is torchvision's with nine blocks that pool as TensorFlow does; clean-fid has them.

    Raises: UserError if clean-fid or torchvision is not installed.
    """
    try:
        from cleanfid import inception_pytorch as blocks
        from torchvision.models import inception_v3
    except ImportError as error:
        raise UserError(f"needs the package {error.name!r}", "inception_legacy_pytorch", "run `make setup`") from None
    network = inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    for name, channels, features in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        setattr(network, f"Mixed_{name}", blocks.FIDInceptionA(channels, features))
    for name, channels in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        setattr(network, f"Mixed_{name}", blocks.FIDInceptionC(768, channels))
    network.Mixed_7b, network.Mixed_7c = blocks.FIDInceptionE_1(1280), blocks.FIDInceptionE_2(2048)
    if state is not None:
        network.load_state_dict(state)
    network.fc = nn.Identity()
    return network.eval().requires_grad_(False)


def _torchscript(content: bytes, device: str) -> torch.jit.ScriptModule:
    return torch.jit.load(io.BytesIO(content), map_location=device).eval()


CLEAN = FeatureNetwork(
    "inception_clean",
    TORCHSCRIPT,
    "clean-fid clean: Pillow's bicubic (antialiased) to 299 px in float32, clipped, not rounded; (k - 128)/128",
    2048,
    clean,
    BATCH,
)
LEGACY_TENSORFLOW = FeatureNetwork("inception_legacy_tensorflow", TORCHSCRIPT, TF1, 2048, legacy_tensorflow, BATCH)
LEGACY_PYTORCH = FeatureNetwork(
    "inception_legacy_pytorch",
    STATE_DICT,
    "clean-fid legacy_pytorch: torch's bilinear (not antialiased) to 299 px, float32, not rounded; 2 k/255 - 1",
    2048,
    legacy_pytorch,
    BATCH,
)
CLASSES = FeatureNetwork("inception_classes", TORCHSCRIPT, TF1, 1008, classes, BATCH)

"""DINOv2's ViT-L/14, with the published file's parameter names and shapes: the features of FD-DINOv2.

Only what an evaluation needs: 224 px in, the class token out; no registers, no masks, no dropped paths.
"""

import io
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fm.errors import UserError
from fm.metrics.network import FeatureNetwork
from fm.metrics.resizing import pillow_bicubic_rounded
from fm.metrics.weights import Weights

SIZE, BATCH = 224, 16
PATCH, TRAINED = 14, 37  # pixels of a patch; patches a side that the position embeddings are of
OFFSET = 0.1  # added to the patches a side where DINOv2 computes the scale of its interpolation
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The authors publish no hash; independent projects state this one, with the byte count that the authors' server tells.
WEIGHTS = Weights(
    "dinov2_vitl14_pretrain.pth",
    "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    1_217_586_395,
    Path(torch.hub.get_dir()) / "checkpoints",
)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Scale(nn.Module):
    """One learnt factor a channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = Attention(width, heads), Mlp(width)
        self.ls1, self.ls2 = Scale(width), Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Patches(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, stride=PATCH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """Normalised pictures (n, 3, 14 a, 14 a) -> class tokens after the last norm, (n, width) (Oquab et al. 2023).

    With the default arguments it takes `dinov2_vitl14_pretrain.pth` strictly, other sizes likewise.
    """

    def __init__(self, width: int = 1024, depth: int = 24, heads: int = 16) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TRAINED**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # of the training; it stands in the file
        self.patch_embed = Patches(width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], 1)
        x = x + positions(self.pos_embed, images.shape[2] // PATCH)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])


def positions(embeddings: Tensor, side: int) -> Tensor:
    """Position embeddings (1, 1 + 37 x 37, d) for side x side patches: (1, 1 + side^2, d), bicubic, not antialiased.

    As DINOv2 does it, the scale is (side + 0.1)/37: at 16 a side the last patch lies 0.2 of a trained one further in.
    """
    if side == TRAINED:
        return embeddings
    grid = embeddings[:, 1:].unflatten(1, (TRAINED, TRAINED)).permute(0, 3, 1, 2)
    scale = (side + OFFSET) / TRAINED
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([embeddings[:, :1], grid.flatten(2).transpose(1, 2)], 1)


def vitl14(content: bytes, device: str) -> Callable[[Tensor], Tensor]:
    """FD-DINOv2's features, as dgm-eval computes them (Stein et al. 2023): 1,024 of a picture resized to 224 px.

    Raises: UserError if the file holds other parameters.
    """
    with torch.device("meta"):
        network = VisionTransformer()
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    try:
        network.load_state_dict(state, assign=True)
    except (RuntimeError, TypeError):
        raise UserError("does not hold the parameters of DINOv2's ViT-L/14", WEIGHTS.name, WEIGHTS.mend()) from None
    return described(network.to(device).eval().requires_grad_(False), device)


def described(network: nn.Module, device: str) -> Callable[[Tensor], Tensor]:
    """uint8 pictures (n, 3, h, w) -> what the network says of them, resized and normalised."""
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    return lambda images: network((pillow_bicubic_rounded(images, SIZE) / 255 - mean) / std)


VITL14 = FeatureNetwork(
    "dinov2_vitl14",
    WEIGHTS,
    "dgm-eval: Pillow's bicubic (antialiased, 8 bit) to 224 px, k/255, ImageNet's mean and deviation; class token "
    "after the last normalisation",
    1024,
    vitl14,
    BATCH,
)

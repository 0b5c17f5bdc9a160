"""DINOv2's network without its file: the published names and shapes, the interpolation, and the way of a picture in."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from fm.errors import UserError
from fm.metrics import load_features
from fm.metrics.dinov2 import MEAN, PATCH, SIZE, STD, TRAINED, WEIGHTS, VisionTransformer, described, positions, vitl14
from fm.noise import draws
from tests.inception import published

BLOCK = {
    "norm1.weight": (1024,),
    "norm1.bias": (1024,),
    "attn.qkv.weight": (3072, 1024),
    "attn.qkv.bias": (3072,),
    "attn.proj.weight": (1024, 1024),
    "attn.proj.bias": (1024,),
    "ls1.gamma": (1024,),
    "norm2.weight": (1024,),
    "norm2.bias": (1024,),
    "mlp.fc1.weight": (4096, 1024),
    "mlp.fc1.bias": (4096,),
    "mlp.fc2.weight": (1024, 4096),
    "mlp.fc2.bias": (1024,),
    "ls2.gamma": (1024,),
}
FILE = {
    "cls_token": (1, 1, 1024),
    "pos_embed": (1, 1370, 1024),
    "mask_token": (1, 1024),
    "patch_embed.proj.weight": (1024, 3, 14, 14),
    "patch_embed.proj.bias": (1024,),
    **{f"blocks.{i}.{name}": shape for i in range(24) for name, shape in BLOCK.items()},
    "norm.weight": (1024,),
    "norm.bias": (1024,),
}


def test_names_and_shapes_are_those_of_the_published_file():
    with torch.device("meta"):
        state = VisionTransformer().state_dict()
    assert {name: tuple(values.shape) for name, values in state.items()} == FILE
    assert 0 < WEIGHTS.size_bytes - 4 * sum(values.numel() for values in state.values()) < 1e-4 * WEIGHTS.size_bytes


def test_another_networks_file_is_refused(tmp_path):
    torch.save({"cls_token": torch.zeros(1, 1, 384)}, tmp_path / "small.pth")
    with pytest.raises(
        UserError, match=r"dinov2_vitl14_pretrain.pth: does not hold the parameters of DINOv2's ViT-L/14"
    ):
        vitl14((tmp_path / "small.pth").read_bytes(), "cpu")


def cubic(x: float) -> float:
    """Keys's kernel with torch's a = -0.75."""
    a, x = -0.75, abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


@pytest.mark.parametrize("side", [16, 20])
def test_positions_are_interpolated_by_the_published_scale(side):
    """One axis after the other from the kernel's own formula, the scale (side + 0.1)/37, the border repeated."""
    weights = np.zeros((side, TRAINED))
    for i in range(side):
        centre = (i + 0.5) * TRAINED / (side + 0.1) - 0.5
        for j in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            weights[i, min(max(j, 0), TRAINED - 1)] += cubic(centre - j)
    given = draws(0, "positions", torch.arange(1 + TRAINED**2), (6,))[None]
    found = positions(given, side)
    grid = given[0, 1:].reshape(TRAINED, TRAINED, 6).double()
    m = torch.from_numpy(weights)
    expected = torch.einsum("ia,jb,abd->ijd", m, m, grid).reshape(side**2, 6)
    assert torch.equal(found[:, 0], given[:, 0])
    assert torch.allclose(found[0, 1:].double(), expected, atol=1e-5)
    assert positions(given, TRAINED) is given


def test_a_network_of_one_block_is_its_definition():
    """By hand from the parameters, in float64."""
    torch.manual_seed(0)
    network = VisionTransformer(width=8, depth=1, heads=2).double().eval()
    for values in network.parameters():
        torch.nn.init.normal_(values, std=0.5)
    p = dict(network.state_dict())
    images = draws(1, "images", torch.arange(2), (3, 28, 28)).double()
    norm = lambda x, name: torch.nn.functional.layer_norm(x, (8,), p[f"{name}.weight"], p[f"{name}.bias"], 1e-6)  # noqa: E731
    cut = images.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5).reshape(2, 4, -1)
    x = cut @ p["patch_embed.proj.weight"].reshape(8, -1).T + p["patch_embed.proj.bias"]
    x = torch.cat([p["cls_token"].expand(2, 1, 8), x], 1) + positions(p["pos_embed"], 2)
    q, k, v = (norm(x, "blocks.0.norm1") @ p["blocks.0.attn.qkv.weight"].T + p["blocks.0.attn.qkv.bias"]).split(8, 2)
    heads = []
    for h in (slice(0, 4), slice(4, 8)):
        heads.append((q[..., h] @ k[..., h].mT / 2).softmax(2) @ v[..., h])
    attended = torch.cat(heads, 2) @ p["blocks.0.attn.proj.weight"].T + p["blocks.0.attn.proj.bias"]
    x = x + p["blocks.0.ls1.gamma"] * attended
    hidden = norm(x, "blocks.0.norm2") @ p["blocks.0.mlp.fc1.weight"].T + p["blocks.0.mlp.fc1.bias"]
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    x = x + p["blocks.0.ls2.gamma"] * (hidden @ p["blocks.0.mlp.fc2.weight"].T + p["blocks.0.mlp.fc2.bias"])
    assert torch.allclose(network(images), norm(x, "norm")[:, 0], rtol=1e-10)


@pytest.mark.parametrize("shape", [(28, 28), (64, 64), (224, 224), (512, 512), (301, 77)], ids=str)
def test_a_picture_goes_in_as_dgm_eval_puts_it_in(shape):
    """224 px by torchvision's resize of a Pillow picture, then levels, mean and deviation."""
    picture = np.random.default_rng(shape[0]).integers(0, 256, (*shape, 3), np.uint8)
    peer = transforms.Compose(
        [
            transforms.Resize((SIZE, SIZE), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    seen = described(torch.nn.Identity(), "cpu")(torch.from_numpy(picture).permute(2, 0, 1)[None])
    assert seen.shape == (1, 3, SIZE, SIZE)
    assert (seen[0] - peer(Image.fromarray(picture))).abs().max() < 1e-6


@pytest.mark.slow
def test_a_file_of_its_shape_gives_1024_features(tmp_path, monkeypatch):
    file = tmp_path / WEIGHTS.name
    torch.manual_seed(0)
    torch.save(VisionTransformer().state_dict(), file)
    known = published(monkeypatch, WEIGHTS, file)
    features = load_features("dinov2_vitl14")
    assert (features.weights, features.name) == (known.sha256, "dinov2_vitl14")
    assert features(torch.zeros(1, 1, 28, 28, dtype=torch.uint8)).shape == (1, 1024)

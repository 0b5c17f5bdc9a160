import pytest
import torch

from fm.errors import SettingsError, ValueUserError
from fm.lineage import digest
from fm.metrics import DISTANCES, FEATURES, check_features, identity_of, load_features
from fm.noise import uniforms

OFFLINE = [name for name in FEATURES if not name.startswith(("inception", "dinov2"))]  # those need a file


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
    assert width == FEATURES[features.name].dimensions
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
    with pytest.raises(SettingsError, match=r"evaluation\.features: unknown features"):
        check_features("inception", where="evaluation.features")


def test_what_a_check_says_is_what_the_rows_will_say(features):
    assert check_features(features.name) == features.weights
    assert FEATURES[features.name].name == features.name


def test_two_networks_are_never_one_even_from_one_file() -> None:
    found = [digest(name, "one file", network.preprocessing) for name, network in FEATURES.items()]
    assert len(set(found)) == len(FEATURES)
    for name in ("efficientnet_lite0", "efficientnet_lite0_b7", "random_conv"):
        assert identity_of(name) == load_features(name).identity

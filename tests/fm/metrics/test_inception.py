"""Our Inception protocols against clean-fid's own code on the same pictures; a small network stands in for the file."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fm.errors import UserError
from fm.metrics import DISTANCES, FEATURES, check_features, inception, load_features
from fm.metrics.inception import STATE_DICT, TORCHSCRIPT
from tests.inception import SmallInception, folder, pictures, published

COUNT = 40  # more than the 32 features that are compared: clean-fid's distance needs covariances of full rank
NAMES = [name for name in FEATURES if name.startswith("inception")]


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The small network under the file's name, where clean-fid looks and where ours does."""
    file = tmp_path / TORCHSCRIPT.name
    torch.jit.script(SmallInception().eval()).save(file)
    published(monkeypatch, TORCHSCRIPT, file)
    # clean-fid reads /tmp, which other users may fill; what it takes for Windows reads the working folder.
    monkeypatch.setattr("cleanfid.features.platform", SimpleNamespace(system=lambda: "Windows"))
    monkeypatch.chdir(tmp_path)
    return file


def both(mode: str, sets: list[np.ndarray], tmp_path):
    """Our features of two sets and clean-fid's of their PNGs; our distance and its own, on every 64th feature."""
    from cleanfid import fid
    from cleanfid.features import build_feature_extractor

    peer = build_feature_extractor(mode, torch.device("cpu"), use_dataparallel=False)
    features = load_features(f"inception_{mode}")
    folders = [folder(tmp_path / f"set{i}", images) for i, images in enumerate(sets)]
    mine = [features(torch.from_numpy(images).permute(0, 3, 1, 2)) for images in sets]
    options = {"mode": mode, "num_workers": 0, "device": torch.device("cpu"), "verbose": False}
    theirs = [torch.from_numpy(fid.get_folder_features(at, peer, **options)) for at in folders]
    some = slice(0, 2048, 64)
    total = fid.compare_folders(*folders, lambda x: peer(x)[:, some], **options)
    return mine, theirs, DISTANCES["fd"](mine[0][:, some], mine[1][:, some]), total


@pytest.mark.parametrize("shape", [(28, 28), (64, 64), (331, 45)], ids=str)
@pytest.mark.parametrize("mode", ["clean", "legacy_tensorflow"])
def test_features_and_distance_are_those_of_clean_fid_on_pngs(small, tmp_path, mode, shape):
    mine, theirs, ours, total = both(mode, [pictures(0, shape), pictures(1, shape) // 2 + 60], tmp_path)
    for a, b in zip(mine, theirs, strict=True):
        assert a.shape == (COUNT, 2048)
        assert (a - b).norm() < 1e-6 * b.norm()
    assert total > 0.1
    assert ours == pytest.approx(total, abs=1e-3, rel=1e-5)


@pytest.mark.parametrize("size", [28, 128])
@pytest.mark.parametrize("mode", ["clean", "legacy_tensorflow"])
def test_the_distance_of_grey_constant_pictures_is_that_of_clean_fid(small, tmp_path, mode, size):
    """Pictures of one level each, whose resize must not invent anything."""
    levels = torch.from_numpy(pictures(2, (1, 1), COUNT)[:, :, :, :1])
    grey = [levels.expand(-1, size, size, 3).contiguous().numpy() // part + add for part, add in ((1, 0), (2, 40))]
    _, _, ours, total = both(mode, grey, tmp_path)
    assert total > 0.1
    assert ours == pytest.approx(total, abs=1e-3, rel=1e-4)
    one = load_features(f"inception_{mode}")(torch.from_numpy(grey[0][:, :, :, :1]).permute(0, 3, 1, 2))
    assert torch.equal(one, load_features(f"inception_{mode}")(torch.from_numpy(grey[0]).permute(0, 3, 1, 2)))


def test_the_two_protocols_of_one_file_differ(small):
    """Or their agreement with clean-fid would say nothing."""
    image = torch.from_numpy(pictures(0, (331, 301))[:1]).permute(0, 3, 1, 2)
    clean, tensorflow = (load_features(f"inception_{mode}")(image) for mode in ("clean", "legacy_tensorflow"))
    assert (clean - tensorflow).norm() > 1e-3 * clean.norm()


def test_classes_are_probabilities_without_the_bias(small):
    images = torch.from_numpy(pictures(0, (32, 32))[:4]).permute(0, 3, 1, 2)
    found = inception.CLASSES.load()(images)
    weights = torch.jit.load(small).output.weight.detach()
    expected = (load_features("inception_legacy_tensorflow")(images) @ weights.T).softmax(1)
    assert found.shape == (4, 1008) and torch.allclose(found, expected, atol=1e-6)


def test_classes_are_no_features_to_choose():
    assert "inception_classes" not in FEATURES


@pytest.mark.parametrize("name", NAMES)
def test_each_says_what_it_does_and_what_it_lacks(name, tmp_path, monkeypatch):
    monkeypatch.setenv("FM_FEATURES", str(tmp_path))
    monkeypatch.setenv("FM_CACHE", str(tmp_path / "cache"))
    file = STATE_DICT.name if name == "inception_legacy_pytorch" else TORCHSCRIPT.name
    for asked in (load_features, check_features):
        with pytest.raises(UserError, match=f"{file} is not on this machine; set FM_FEATURES"):
            asked(name)


def test_preprocessing_names_mode_resize_and_level_rule(small):
    for name, resize in (("inception_clean", "Pillow's bicubic"), ("inception_legacy_tensorflow", "TensorFlow 1's")):
        words = load_features(name).preprocessing
        assert resize in words and "299 px" in words and "not rounded" in words and "(k - 128)/128" in words

"""Our Inception protocols against clean-fid's own code on the same pictures; a small network stands in for the file."""

import hashlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fm.errors import UserError
from fm.metrics import DISTANCES, FEATURES, load_features
from fm.metrics.inception import STATE_DICT, TORCHSCRIPT, pytorch_fid
from fm.noise import uniforms
from tests.inception import SmallInception

COUNT = 40  # more than the 32 features that are compared: clean-fid's distance needs covariances of full rank


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The small network under the file's name, where clean-fid looks and where ours does."""
    file = tmp_path / TORCHSCRIPT.name
    torch.jit.script(SmallInception().eval()).save(file)
    known = replace(TORCHSCRIPT, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setattr("fm.metrics.inception.TORCHSCRIPT", known)
    monkeypatch.setenv("FM_INCEPTION", str(file))
    monkeypatch.setenv("FM_CACHE", str(tmp_path / "cache"))
    # clean-fid reads /tmp, which other users may fill; what it takes for Windows reads the working folder.
    monkeypatch.setattr("cleanfid.features.platform", SimpleNamespace(system=lambda: "Windows"))
    monkeypatch.chdir(tmp_path)
    return file


def pictures(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """Blotches of three sizes with edges, uint8 (n, height, width, 3)."""
    total = torch.zeros(COUNT, 3, *shape)
    for size in (2, 5, 11):
        coarse = uniforms(seed, f"blotches/{size}", torch.arange(COUNT), (3, size, size))
        total += torch.nn.functional.interpolate(coarse, size=shape, mode="nearest")
    return (total / 3 * 255).round().byte().permute(0, 2, 3, 1).numpy()


def folder(place, images: np.ndarray) -> str:
    place.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(place / f"{i:04d}.png")
    return str(place)


@pytest.mark.parametrize("shape", [(28, 28), (64, 64), (331, 45)], ids=str)
@pytest.mark.parametrize("mode", ["clean", "legacy_tensorflow"])
def test_features_and_distance_are_those_of_clean_fid_on_pngs(small, tmp_path, mode, shape):
    from cleanfid import fid
    from cleanfid.features import build_feature_extractor

    peer = build_feature_extractor(mode, torch.device("cpu"), use_dataparallel=False)
    features = load_features(f"inception_{mode}")
    sets = [pictures(0, shape), pictures(1, shape) // 2 + 60]
    folders = [folder(tmp_path / f"set{i}", images) for i, images in enumerate(sets)]
    mine = [features(torch.from_numpy(images).permute(0, 3, 1, 2)) for images in sets]
    options = {"mode": mode, "num_workers": 0, "device": torch.device("cpu"), "verbose": False}
    theirs = [torch.from_numpy(fid.get_folder_features(at, peer, **options)) for at in folders]
    for a, b in zip(mine, theirs, strict=True):
        assert a.shape == (COUNT, 2048)
        assert (a - b).norm() < 1e-6 * b.norm()
    some = slice(0, 2048, 64)
    total = fid.compare_folders(*folders, lambda x: peer(x)[:, some], **options)
    assert total > 0.1
    assert DISTANCES["fd"](mine[0][:, some], mine[1][:, some]) == pytest.approx(total, abs=1e-3, rel=1e-5)


def test_the_two_protocols_of_one_file_differ(small):
    """Or their agreement with clean-fid would say nothing."""
    image = torch.from_numpy(pictures(0, (331, 301))[:1]).permute(0, 3, 1, 2)
    clean, tensorflow = (load_features(f"inception_{mode}")(image) for mode in ("clean", "legacy_tensorflow"))
    assert (clean - tensorflow).norm() > 1e-3 * clean.norm()


def test_classes_are_probabilities_without_the_bias(small):
    images = torch.from_numpy(pictures(0, (32, 32))[:4]).permute(0, 3, 1, 2)
    found = load_features("inception_classes")(images)
    weights = torch.jit.load(small).output.weight.detach()
    expected = (load_features("inception_legacy_tensorflow")(images) @ weights.T).softmax(1)
    assert found.shape == (4, 1008) and torch.allclose(found, expected, atol=1e-6)


def test_legacy_pytorch_is_that_of_clean_fid_with_one_random_state(tmp_path, monkeypatch):
    """Its whole architecture, from one file of weights."""
    from cleanfid import inception_pytorch
    from cleanfid.features import build_feature_extractor
    from cleanfid.fid import get_folder_features

    state = seeded_state()
    monkeypatch.setattr(inception_pytorch, "load_state_dict_from_url", lambda *_, **__: state)
    torch.save(state, tmp_path / STATE_DICT.name)
    known = replace(STATE_DICT, sha256=hashlib.sha256((tmp_path / STATE_DICT.name).read_bytes()).hexdigest())
    monkeypatch.setattr("fm.metrics.inception.STATE_DICT", known)
    monkeypatch.setenv("FM_INCEPTION", str(tmp_path))
    monkeypatch.setenv("FM_CACHE", str(tmp_path / "cache"))
    images = pictures(0, (45, 64))[:3]
    mine = load_features("inception_legacy_pytorch")(torch.from_numpy(images).permute(0, 3, 1, 2))
    peer = build_feature_extractor("legacy_pytorch", torch.device("cpu"), use_dataparallel=False)
    options = {"mode": "legacy_pytorch", "num_workers": 0, "device": torch.device("cpu"), "verbose": False}
    theirs = torch.from_numpy(get_folder_features(folder(tmp_path / "pngs", images), peer, **options))
    assert mine.shape == (3, 2048) and (mine[0] - mine[1]).norm() > 1e-3 * mine[0].norm()
    assert (mine - theirs).norm() < 1e-6 * theirs.norm()


def seeded_state() -> dict[str, torch.Tensor]:
    """Weights under which every layer keeps its scale, as trained ones do."""
    generator = torch.Generator().manual_seed(0)
    state = {**inception_shapes()}
    for name, values in state.items():
        if values.ndim > 1:
            state[name] = torch.randn(values.shape, generator=generator) * (2 / values[0].numel()) ** 0.5
    return state


def inception_shapes() -> dict[str, torch.Tensor]:
    network = pytorch_fid()
    return {**network.state_dict(), "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}


@pytest.mark.parametrize("name", [name for name in FEATURES if name.startswith("inception")])
def test_each_says_what_it_does_and_what_it_lacks(name, tmp_path, monkeypatch):
    monkeypatch.setenv("FM_INCEPTION", str(tmp_path))
    monkeypatch.setenv("FM_CACHE", str(tmp_path / "cache"))
    file = STATE_DICT.name if name == "inception_legacy_pytorch" else TORCHSCRIPT.name
    with pytest.raises(UserError, match=f"{file} is not on this machine; set FM_INCEPTION"):
        load_features(name)


def test_preprocessing_names_mode_resize_and_level_rule(small):
    for name, resize in (("inception_clean", "Pillow's bicubic"), ("inception_legacy_tensorflow", "TensorFlow 1's")):
        words = load_features(name).preprocessing
        assert resize in words and "299 px" in words and "not rounded" in words and "(k - 128)/128" in words

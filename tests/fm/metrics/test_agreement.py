"""One network in five libraries: seeded weights of pytorch-fid's architecture through ours, clean-fid, pytorch-fid,
torch-fidelity and torchmetrics; features and the distance's total.

clean-fid's `legacy_pytorch` and pytorch-fid resize as `inception_legacy_pytorch` does: they get the same PNGs, of any
size. torch-fidelity and torchmetrics resize otherwise and map levels by (k - 128)/128: they, and our network behind
that map, get the same pictures of 299 px, which nobody resizes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fm.metrics import DISTANCES, Features, load_features
from fm.metrics.inception import STATE_DICT, pytorch_fid
from tests.inception import folder, pictures, published, seeded_state

COUNT, SIZE = 8, 299
SOME = slice(0, 2048, 400)  # 6 features: peers need covariances of full rank
CPU = torch.device("cpu")


class Published(NamedTuple):
    """The weights in memory and as the file that each library would download."""

    state: dict[str, Tensor]
    file: Path


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Iterator[Published]:
    file = tmp_path_factory.mktemp("weights") / STATE_DICT.name
    state = seeded_state()
    torch.save(state, file)
    with pytest.MonkeyPatch.context() as patch:
        published(patch, STATE_DICT, file)
        yield Published(state, file)


@pytest.fixture(scope="module")
def sets() -> list[np.ndarray]:
    return [pictures(0, (SIZE, SIZE), COUNT), pictures(1, (SIZE, SIZE), COUNT) // 2 + 60]


@pytest.fixture(scope="module")
def ours(weights, sets) -> list[Tensor]:
    return [load_features("inception_legacy_pytorch")(batch(images)) for images in sets]


def shifted(weights: Published) -> Features:
    """Our network behind torch-fidelity's map of levels."""
    network = pytorch_fid(weights.state)
    return Features("shifted", "", "", lambda x: network((x.float() - 128) / 128))


def batch(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def clean_fid(weights: Published) -> nn.Module:
    from cleanfid import inception_pytorch
    from cleanfid.features import build_feature_extractor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception_pytorch, "load_state_dict_from_url", lambda *_, **__: weights.state)
        return build_feature_extractor("legacy_pytorch", CPU, use_dataparallel=False)


def of_clean_fid(network: Any, at: str) -> Tensor:
    from cleanfid.fid import get_folder_features

    options = {"mode": "legacy_pytorch", "num_workers": 0, "device": CPU, "verbose": False}
    return torch.from_numpy(get_folder_features(at, network, **options))


def pytorch_fids(weights: Published) -> nn.Module:
    peer = pytest.importorskip("pytorch_fid.inception")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peer, "load_state_dict_from_url", lambda *_, **__: weights.state)
        return peer.InceptionV3([peer.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval()


def of_pytorch_fid(network: nn.Module, at: str) -> Tensor:
    from pytorch_fid.fid_score import get_activations

    files = sorted(str(file) for file in Path(at).iterdir())
    return torch.from_numpy(get_activations(files, network, batch_size=8, device=CPU, num_workers=0))


def torchmetricss(weights: Published) -> nn.Module:
    pytest.importorskip("torch_fidelity")
    peer = pytest.importorskip("torchmetrics.image.fid")
    return peer.NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights.file))


def torch_fidelitys(weights: Published) -> nn.Module:
    peer = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    return peer.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(weights.file))


def apart(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape and (theirs[0] - theirs[1]).norm() > 1e-3 * theirs[0].norm()
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("shape", [(28, 28), (145, 64), (299, 299)], ids=str)
@pytest.mark.parametrize(("peer", "of"), [(clean_fid, of_clean_fid), (pytorch_fids, of_pytorch_fid)])
def test_features_of_the_same_pngs(weights, tmp_path, peer, of, shape):
    images = pictures(3, shape, 2)
    mine = load_features("inception_legacy_pytorch")(batch(images))
    assert apart(mine, of(peer(weights), folder(tmp_path / "pngs", images))) < 1e-6


@pytest.mark.slow
def test_the_total_of_clean_fid(weights, sets, ours, tmp_path):
    from cleanfid import fid

    network, folders = clean_fid(weights), [folder(tmp_path / f"set{i}", images) for i, images in enumerate(sets)]
    options = {"mode": "legacy_pytorch", "num_workers": 0, "device": CPU, "verbose": False}
    assert total(ours) == pytest.approx(
        fid.compare_folders(*folders, lambda x: network(x)[:, SOME], **options), abs=0, rel=1e-4
    )


@pytest.mark.slow
def test_the_total_of_pytorch_fid(weights, sets, ours, tmp_path):
    network = pytorch_fids(weights)
    from pytorch_fid.fid_score import calculate_frechet_distance

    moments = []
    for i, images in enumerate(sets):
        features = of_pytorch_fid(network, folder(tmp_path / f"set{i}", images)).numpy()[:, SOME]
        moments += [features.mean(0), np.cov(features, rowvar=False)]
    assert total(ours) == pytest.approx(calculate_frechet_distance(*moments), abs=0, rel=1e-4)


@pytest.mark.parametrize("peer", [torch_fidelitys, torchmetricss])
def test_features_of_the_same_levels_at_299_px(weights, sets, peer):
    two = batch(sets[0][:2])
    found = peer(weights)(two)
    assert apart(shifted(weights)(two), found[0] if isinstance(found, tuple) else found) < 1e-6


@pytest.mark.slow
def test_the_total_of_torch_fidelity(weights, sets):
    network = torch_fidelitys(weights)
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    statistics = [fid_features_to_statistics(network(batch(images))[0][:, SOME]) for images in sets]
    found = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    assert total([shifted(weights)(batch(images)) for images in sets]) == pytest.approx(found, abs=0, rel=1e-4)


class Some(nn.Module):
    """The compared features of a network, as torchmetrics takes one."""

    num_features = len(range(2048)[SOME])

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[:, SOME]


@pytest.mark.slow
def test_the_total_of_torchmetrics(weights, sets):
    network = torchmetricss(weights)
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(Some(network))
    for images, real in zip(sets, (False, True), strict=True):
        metric.update(batch(images), real=real)
    found = float(metric.compute())
    assert total([shifted(weights)(batch(images)) for images in sets]) == pytest.approx(found, abs=0, rel=1e-4)


def total(sets: list[Tensor]) -> float:
    found = DISTANCES["fd"](*(features[:, SOME] for features in sets))
    assert found > 1e-3
    return found

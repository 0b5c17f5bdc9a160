from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fm.cells import Budget
from fm.errors import ValueUserError
from fm.metrics import FEATURES, Features, load_features
from fm.noise import draws
from fm.reference import HELDOUT, PART, counts, described_by, order, pictures
from tests.fm.test_cells import settings


class Pictures:
    digest = "pictures"

    def __init__(self, n: int) -> None:
        self.images = (draws(0, "pictures", torch.arange(n), (8, 8, 3)).clamp(-2, 2) * 60 + 128).to(torch.uint8).numpy()
        self.labels, self.read = np.arange(n) % 3, 0

    def __len__(self) -> int:
        return len(self.images)

    def gather(self, indices: Any) -> np.ndarray:
        self.read += len(indices)
        return self.images[np.asarray(indices)]


@pytest.fixture(scope="module")
def features() -> Features:
    return load_features("random_conv")


def test_the_order_is_fixed_and_its_beginning_a_fair_sample() -> None:
    assert sorted(order(600).tolist()) == [*range(600)]
    images, labels = pictures(Pictures(600), 0, 90)
    assert images.shape == (90, 3, 8, 8) and images.dtype == torch.uint8
    assert torch.equal(labels, order(600)[:90] % 3) and np.bincount(labels).min() > 20


def test_features_are_measured_once_and_a_larger_evaluation_adds_what_is_missing(
    features: Features, tmp_path: Path
) -> None:
    data = Pictures(700)
    few = described_by(features, data, HELDOUT, 42, tmp_path)
    assert few.shape == (42, 64) and data.read == 48  # whole batches of eight
    assert torch.equal(described_by(features, data, HELDOUT, 40, tmp_path), few[:40]) and data.read == 48
    many = described_by(features, data, HELDOUT, 700, tmp_path)
    assert torch.equal(many[:42], few) and data.read == 48 + 700
    assert torch.equal(many, described_by(features, Pictures(700), HELDOUT, 700, tmp_path / "anew"))
    assert torch.equal(many[:300], described_by(features, Pictures(700), HELDOUT, 300, tmp_path / "fewer"))
    (file,) = tmp_path.glob("*.safetensors")
    assert file.parent.stat().st_mode & 0o777 == 0o700
    file.write_bytes(file.read_bytes()[:1000])  # damaged: measured again
    assert torch.equal(described_by(features, data, HELDOUT, 42, tmp_path), few)


def test_other_data_another_split_or_network_is_another_entry(features: Features, tmp_path: Path) -> None:
    data = Pictures(40)
    described_by(features, data, HELDOUT, 40, tmp_path)
    described_by(features, data, "train", 40, tmp_path)
    other = Pictures(40)
    other.digest = "others"
    described_by(features, other, HELDOUT, 40, tmp_path)
    described_by(load_features("efficientnet_lite0_b7"), data, HELDOUT, 40, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_parts_may_be_measured_elsewhere(features: Features, tmp_path: Path) -> None:
    from fm.reference import describe_real

    asked: list[tuple[str, range]] = []
    training, heldout = Pictures(600), Pictures(300)

    def describe(split: str, parts: Sequence[range]) -> Iterable[Tensor]:
        for part in parts:
            asked.append((split, part))
            yield features(pictures(heldout if split == HELDOUT else training, part.start, part.stop)[0])

    wanted = settings(samples=520, reference_images=300)
    found = describe_real(training, heldout, features, wanted, tmp_path, describe)
    assert asked == [
        ("test", range(256)),
        ("test", range(256, 300)),
        ("train", range(256)),
        ("train", range(256, 512)),
        ("train", range(512, 520)),
    ]
    here = describe_real(training, heldout, features, wanted, tmp_path / "here")
    assert all(torch.equal(found[split], here[split]) for split in found)


def test_too_few_held_out_images_are_refused() -> None:
    assert counts(settings(samples=50), 30, 40) == {"test": 30, "train": 40}
    with pytest.raises(ValueUserError, match="19 held-out images are too few"):
        counts(settings(), 19, 40)


@pytest.mark.parametrize("name", [name for name in FEATURES if not name.startswith(("inception", "dinov2"))])
def test_batches_divide_the_parts(name: str) -> None:
    assert PART % load_features(name).batch == 0


def test_as_many_images_are_described_as_are_compared_with_and_stand_in_the_samples_place() -> None:
    grid = [Budget(solver="euler", nfe=2), Budget(solver="euler", nfe=4, samples=70)]
    values = {"grid": grid, "samples": 40, "reference_images": 30}
    assert counts(settings(**values), 100, 50) == {"test": 30, "train": 50}
    assert counts(settings(**values, reference_split="training"), 100, 50) == {"test": 70, "train": 30}

"""What samples are judged by: real pictures of a data set, held out and trained on, and their features.

The pictures of a split come in a fixed random order, whose beginning is a fair sample. Features are kept by data, split
and feature network, not by how many an evaluation asks for: a later one takes their beginning, or adds to them.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from fm.cells import Cell, Evaluation, cells
from fm.data import ShardedImages
from fm.data.addresses import node_cache
from fm.errors import ValueUserError
from fm.files import atomic, writable_folder
from fm.flow import Flow
from fm.lineage import code_digest, digest
from fm.metrics import Features
from fm.noise import uniforms

FEWEST = 20  # held-out images that a network can be judged by
PART = 256  # pictures described at a time; the batches of every feature network divide it
HELDOUT, TRAINING = "test", "train"  # the splits

Describe = Callable[[str, Sequence[range]], Iterable[Tensor]]  # split, places of its order -> features of each range


class Images(Protocol):
    """What is asked of a data set (`fm.data.ShardedImages`)."""

    digest: str

    @property
    def labels(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def gather(self, indices: Any) -> np.ndarray:
        """uint8 (n, height, width, channels)."""


@lru_cache(maxsize=4)
def order(images: int) -> Tensor:
    """The indices of a split of so many images in the order in which evaluations take them, (images,)."""
    return uniforms(0, "reference", torch.arange(images), ()).argsort(stable=True)


def pictures(dataset: Images, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Images uint8 (n, c, h, w) and labels (n,), -1 for none, of these places of the order."""
    indices = order(len(dataset))[start:stop]
    images = torch.from_numpy(dataset.gather(indices)).permute(0, 3, 1, 2).contiguous()
    return images, torch.as_tensor(dataset.labels)[indices]


class Pairs(NamedTuple):
    """Images uint8 (n, c, h, w) with their small pictures uint8 (n, c, s, s)."""

    images: Tensor
    low: Tensor


def pairs(dataset: Any, start: int, stop: int) -> Pairs:
    """The images of these places of the order with their small pictures.

    Raises: DataError if the data set holds none.
    """
    low = dataset.low(order(len(dataset))[start:stop])
    return Pairs(pictures(dataset, start, stop)[0], torch.from_numpy(low).permute(0, 3, 1, 2).contiguous())


def examples(flow: Flow, data: str, n: int) -> Pairs | None:
    """The n first held-out images of a data set, over again where there are fewer, with the small pictures that a
    super-resolution network draws from; None for another network."""
    if flow.low_size is None:
        return None
    found = pairs(ShardedImages(data, HELDOUT), 0, n)
    places = torch.arange(n) % len(found.low)
    return Pairs(found.images[places], found.low[places])


@dataclass(frozen=True)
class Reference:
    """What samples are compared with: features of held-out and of training images, and images for bits/dim.

    heldout (n, d) and training (m, d) float32; labels (n,) of the held-out images (-1: none); images and
    training_images uint8 (k, c, h, w), the first ones of both splits, with training_labels. `data` and
    `features_weights` say what it was made from.
    """

    heldout: Tensor
    training: Tensor
    labels: Tensor
    images: Tensor
    training_images: Tensor
    training_labels: Tensor
    data: str
    features: str
    features_weights: str

    def sets(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """The features that a cell's samples are compared with, and those of real images in the samples' place."""
        against, beside = self.heldout, self.training
        if cell.reference_split == "training":
            against, beside = beside, against
        return against[: cell.reference_images], beside[: cell.samples]


def counts(settings: Evaluation, heldout: int, training: int) -> dict[str, int]:
    """How many images of each split an evaluation compares with, of so many.

    Raises: ValueUserError if there are fewer than 20 held-out images.
    """
    if heldout < FEWEST:
        raise ValueUserError(f"{heldout} held-out images are too few to judge by", mend=f"hold out at least {FEWEST}")
    most = max([settings.samples, *(cell.samples for cell in cells(settings))])  # of the floor
    against, beside = settings.reference_images, most
    if settings.reference_split == "training":
        against, beside = beside, against
    return {HELDOUT: min(against, heldout), TRAINING: min(beside, training)}


def measure_reference(
    training: Images, heldout: Images, features: Features, settings: Evaluation, folder: Path | None = None
) -> Reference:
    """The reference of a data set; what `describe_real` has kept in the folder is not measured again.

    Raises: ValueUserError if there are fewer than 20 held-out images.
    """
    found = describe_real(training, heldout, features, settings, folder)
    training_images, training_labels = pictures(training, 0, settings.nll_training_images)
    return Reference(
        heldout=found[HELDOUT],
        training=found[TRAINING],
        labels=label_law(heldout, settings),
        images=pictures(heldout, 0, settings.nll_images)[0],
        training_images=training_images,
        training_labels=training_labels,
        data=training.digest,
        features=features.name,
        features_weights=features.weights,
    )


def describe_real(
    training: Images,
    heldout: Images,
    features: Features,
    settings: Evaluation,
    folder: Path | None = None,
    describe: Describe | None = None,
) -> dict[str, Tensor]:
    """The features (n, d) of the held-out and of the training images that an evaluation compares with, by split.

    They are kept in the folder, if none is named in this user's cache. `describe(split, parts)` may measure the places
    of a split's order that are missing elsewhere: as many features (n, d) as there are parts, in their order.

    Raises: ValueUserError if there are fewer than 20 held-out images.
    """
    sets, found = {HELDOUT: heldout, TRAINING: training}, {}
    for split, count in counts(settings, len(heldout), len(training)).items():
        if describe:
            found[split] = _described(split, count, sets[split], features, folder or kept_in(), describe)
        else:
            found[split] = described_by(features, sets[split], split, count, folder)
    return found


def kept_in() -> Path:
    """This user's cache for features of real pictures."""
    return node_cache() / f"reference-{os.getuid()}"


def label_law(heldout: Images, settings: Evaluation) -> Tensor:
    """The labels (n,) whose frequencies samples of a class-conditional network get."""
    return torch.as_tensor(heldout.labels)[order(len(heldout))[: settings.reference_images]]


def described_by(features: Features, dataset: Images, split: str, count: int, folder: Path | None = None) -> Tensor:
    """Features (count, d) of the beginning of a split's order, kept in the folder or this user's cache."""

    def describe(_: str, parts: Sequence[range]) -> Iterable[Tensor]:
        return (features(pictures(dataset, part.start, part.stop)[0]) for part in parts)

    return _described(split, count, dataset, features, folder or kept_in(), describe)


def _described(split: str, count: int, dataset: Images, features: Features, folder: Path, describe: Describe) -> Tensor:
    """Features (count, d) of the beginning of a split's order, as far as they are there from the folder."""
    made_by = (features.name, features.weights, features.preprocessing, features.device, code_digest())
    file = folder / f"{split}-{digest(dataset.digest, split, *made_by, torch.__version__)}.safetensors"
    kept = _read(file)
    if len(kept) < count:
        # Whole batches, whatever was asked for: the last bits of a feature may depend on its batch.
        end = min(-(-count // features.batch) * features.batch, len(dataset))
        start = len(kept) // PART * PART
        parts = [range(first, min(first + PART, end)) for first in range(start, end, PART)]
        kept = torch.cat([*([kept[:start]] if start else []), *describe(split, parts)])
        _write(file, kept)
    return kept[:count]


def _read(file: Path) -> Tensor:
    """Kept features; none if there are none, or what is there is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)["features"]
    except (OSError, SafetensorError, KeyError):
        return torch.empty(0)


def _write(file: Path, features: Tensor) -> None:
    from safetensors.torch import save

    writable_folder(file.parent).chmod(0o700)
    with atomic(file) as out:
        out.write(save({"features": features.contiguous()}))

"""Scores any pictures against a prepared data set, as a network's samples are: a row with floor and interval."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fm.columns import distance_columns, inception_columns
from fm.data import ShardedImages, Source
from fm.data.decode import Rejected, decode
from fm.errors import DataError, ValueUserError, member
from fm.lineage import code_digest, digest
from fm.metrics import DISTANCES, Features, class_probabilities
from fm.reference import FEWEST, HELDOUT, TRAINING, Images, described_by
from fm.results import Row

PICTURES = "pictures"  # the method of such a row


def score_pictures(
    source: Source,
    data: str,
    features: Features,
    distances: Sequence[str] = ("fd",),
    reference: str = HELDOUT,
    most: int | None = None,
) -> Row:
    """The distances of a source's pictures, at most so many, from the held-out or the training images of a data set.

    The floor is that of as many images of the other split. All images of both splits take part.

    Raises: DataError for a picture that cannot be read or is not of the data's size; ValueUserError for fewer than 20.
    """
    for name in distances:
        member(name, DISTANCES, "distance", where="--distances")
    sets = {split: ShardedImages(data, split) for split in (HELDOUT, TRAINING)}
    other = TRAINING if reference == HELDOUT else HELDOUT
    images = read_pictures(source, sets[reference].shape, most)
    real: dict[str, Images] = dict(sets)
    known = {split: described_by(features, real[split], split, len(sets[split])) for split in (reference, other)}
    found = features(images)
    row: Row = {
        "method": PICTURES,
        "path": "",
        "solver": "none",
        "nfe": 0,
        "nfe_mean": 0.0,
        "tolerance": None,
        "samples": len(images),
        "seed": 0,
        "seconds": 0.0,
    }
    row |= distance_columns(distances, features.name, found, known[reference], known[other])
    row |= inception_columns(class_probabilities(images, features))
    lineage = {
        "pictures": source.uri,
        "pictures_digest": hashlib.sha256(images.numpy().tobytes()).hexdigest()[:16],
        "data": sets[reference].digest,
        "reference": reference,
        "reference_images": len(known[reference]),
        "features": features.name,
        "features_weights": features.weights,
        "features_preprocessing": features.preprocessing,
        "features_dimensions": found.shape[1],
        "code": code_digest(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": features.device,
    }
    return {"key": digest(lineage, distances)} | row | lineage


def read_pictures(source: Source, shape: tuple[int, int, int], most: int | None = None) -> Tensor:
    """The source's pictures as they are, uint8 (n, channels, height, width), in its order, at most so many.

    Raises: DataError for one that cannot be read or is of another size; ValueUserError for fewer than 20.
    """
    items = source.items()
    count = min(len(items), most or len(items))
    if count < FEWEST:
        raise ValueUserError(f"{count} pictures are too few to judge by", source.uri, f"give at least {FEWEST}")
    pictures = []
    for item in items[:count]:
        try:
            picture = decode(source.read(item))
        except Rejected as error:
            raise DataError(f"is no picture ({error.reason})", item.key, "take it out") from None
        array = np.asarray(picture.convert("L") if shape[0] == 1 else picture).reshape(*picture.size[::-1], -1)
        if (array.shape[2], *array.shape[:2]) != tuple(shape):
            size = f"{array.shape[1]} x {array.shape[0]}"
            what = f"is {size}, the data set's images are {shape[2]} x {shape[1]}"
            raise DataError(what, item.key, "score them at that size, or prepare the data set at theirs")
        pictures.append(array)
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()

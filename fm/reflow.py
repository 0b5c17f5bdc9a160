"""Reflow (Liu et al. 2023): a network is trained on what another one draws, each image with the noise that it was drawn
from. Its ways from noise to image are straighter, so that fewer steps are enough.

Image i of a drawn data set is what noise i of the stream "drawn" flows to, under the seed of the training that is to
see it, and its class is drawn in the same way: a pair is a number, and no noise is stored. Images are rounded to grey
levels as all are.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fm import noise
from fm.data import Item, Manifest, Source
from fm.data.preparation import encode
from fm.drawing import DRAWN
from fm.errors import SettingsError
from fm.facts import facts_of, is_trained
from fm.flow import Flow
from fm.lineage import digest, leaves
from fm.recipe import Recipe, load

DECIDED = (
    *("data", "path.kind", "objective", "class_conditional", "super_resolution", "peer"),
    *("training.drawn_by", "training.initial_weights"),
)
Begin = Literal["run", "scratch"]
TOLERANCE = 1e-4  # of dopri5, unless another is asked for
BATCH = 64  # images solved together: dopri5 shares its steps among them, so it is part of what comes out
PART = 10_000  # images whose classes are drawn at once


@dataclass(frozen=True)
class Drawn(Source):
    """What a RUN's network draws by dopri5: `images` pictures from the noises 0, 1, ... of a seed.

    run: folder or address, as every machine finds it; weights: SHA-256 of its average; tolerance: rtol = atol;
    frequencies: of a class-conditional network's classes, in the order of their names.
    """

    uri: str
    run: str
    weights: str
    seed: int
    images: int
    tolerance: float
    frequencies: tuple[tuple[str, int], ...] = ()
    numbered: ClassVar[bool] = True

    def found(self) -> Iterator[Item]:
        for first in range(0, self.images, PART):
            numbers = range(first, min(first + PART, self.images))
            labels = self.labels(torch.tensor(numbers))
            names = [None] * len(numbers) if labels is None else [self.frequencies[y][0] for y in labels.tolist()]
            yield from (Item(f"{n:012d}", name, "train", at=(n,)) for n, name in zip(numbers, names, strict=True))

    def classes(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.frequencies)

    def labels(self, numbers: Tensor) -> Tensor | None:
        """The classes int64 (n,) of these images, as frequent as in the training data; None for a network without."""
        if not self.frequencies:
            return None
        up_to = torch.tensor([count for _, count in self.frequencies], dtype=torch.float64).cumsum(0)
        u = noise.uniforms(self.seed, f"{DRAWN} label", numbers, ()).double()
        return torch.searchsorted(up_to / up_to[-1], u, right=True)

    def read(self, item: Item) -> bytes:
        (number,) = item.at
        return encode(_batch(self, number // BATCH)[number % BATCH], "raw")[0]

    def digest(self) -> str:
        return digest("drawn", BATCH, self.weights, self.seed, self.tolerance, self.images, *self.frequencies)

    def facts(self, data: str, manifest: Manifest) -> dict[str, Any]:
        """What RUN/data.json says of them."""
        own = {"run": self.run, "weights": self.weights, "images": self.images, "tolerance": self.tolerance}
        return own | {"seed": self.seed, "data": data, "digest": manifest.digest}


@lru_cache(maxsize=2)
def _batch(source: Drawn, number: int) -> NDArray[np.uint8]:
    """uint8 (BATCH, height, width, channels), always whole: a shorter last one would take other steps."""
    flow = _flow(source.run, source.weights)
    numbers = torch.arange(number * BATCH, (number + 1) * BATCH)
    z = noise.draws(source.seed, DRAWN, numbers, flow.shape, flow.device)
    tolerance = source.tolerance
    images = flow.decode(flow.path.sample_source(z), y=source.labels(numbers), rtol=tolerance, atol=tolerance)
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy())


@lru_cache(maxsize=1)
def _flow(run: str, weights: str) -> Flow:
    return load(run, "cuda" if torch.cuda.is_available() else "cpu", weights)


def student(
    teacher: Recipe,
    run: str,
    weights: str,
    images: int,
    begin: Begin = "run",
    tolerance: float = TOLERANCE,
    changes: Sequence[str] | Mapping[str, Any] = (),
    frequencies: Mapping[str, int] | None = None,
) -> tuple[Recipe, Drawn]:
    """The recipe of a training on `images` that the network of `teacher`, in RUN and of these weights, draws, and what
    draws them: by flow matching on the OT path, from its weights or from scratch. `frequencies` are the training images
    of each class that the network knows.

    Raises: SettingsError for a network of super-resolution, or whose weights answer another question; and for a change
    of what reflow decides.
    """
    if teacher.super_resolution:
        what = "is told a small picture, which the shards of drawn images do not hold"
        raise SettingsError(what, run, "take a RUN that draws from noise, with classes or without")
    if begin == "run" and (teacher.objective != "flow_matching" or teacher.peer):
        why = "was trained elsewhere" if teacher.peer else f"does not predict a velocity ({teacher.objective})"
        raise SettingsError(f"{why}, so its weights are none to begin with", run, "begin from scratch: --begin scratch")
    values = teacher.model_dump(mode="json")
    path = values["path"] if values["path"]["kind"] == "ot" else {"kind": "ot"}
    values |= {"name": f"{teacher.name}-reflow", "objective": "flow_matching", "path": path, "peer": None}
    values["training"] |= {"coupling": "independent", "coupling_block_images": None, "coupling_noises": None}
    seed = (teacher.training.seed + bool(teacher.training.drawn_by)) % 2**31  # another's noises than it was trained on
    values["training"] |= {
        "seed": seed,
        "flips": False,
        "drawn_by": None,
        "initial_weights": weights if begin == "run" else None,
    }
    own = Recipe.parse(values, run)
    recipe = Recipe.changed(values, changes, run)
    due, found = (leaves(one.model_dump(mode="json")) for one in (own, recipe))
    decided = (*DECIDED, "model") if begin == "run" else DECIDED
    for key in sorted(due.keys() | found.keys()):
        if due.get(key) != found.get(key) and any(f"{key}.".startswith(f"{name}.") for name in decided):
            raise SettingsError("is what reflow decides", f"--set {key}", "leave it out")
    known = tuple((frequencies or {}).items()) if teacher.class_conditional else ()
    source = Drawn(f"drawn:{run}", run, weights, recipe.training.seed, images, tolerance, known)
    training = recipe.training.model_copy(update={"drawn_by": source.digest()})
    return recipe.model_copy(update={"training": training}), source


def drawing_weights(run: Path, newest: str) -> str:
    """The weights that draw for RUN: those that it was begun with, whatever the teacher's are now."""
    if not (run / "data.json").exists() or not is_trained(run):
        return newest
    return str(facts_of(run).get("drawn", {}).get("weights", newest))

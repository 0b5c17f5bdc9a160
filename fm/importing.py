"""`fm import`: a peer's checkpoint file -> a RUN to sample, score and compare.

What a file holds is read by `fm/peers/files.py`, how such a network is asked is `fm/peers/asking.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fm.checkpoints import Store
from fm.errors import CheckpointError, SettingsError, UserError
from fm.files import sha256
from fm.parsing import parse
from fm.peers import Found, Peer, architecture, classes, found_in, heads_first, read
from fm.recipe import Recipe, on_import, opened
from fm.state import differing


def import_run(
    file: Path,
    run: Path,
    peer: str | None = None,
    weights: str = "ema",
    size: int | None = None,
    schedule: str | None = None,
    qkv_first: bool | None = None,
    images_seen: int = 0,
    preset: str | None = None,
    changes: Sequence[str] = (),
) -> dict[str, Any]:
    """Makes RUN of the checkpoint `file` -> what has to be known of it, as it stands in RUN/data.json.

    `peer`, `size`, `schedule` ("linear" or "cosine", of guided-diffusion) and `qkv_first` where the file does not tell;
    `weights` "model" takes what is not averaged. `preset` gives what is measured; `changes` change the recipe, such as
    `model.head_channels=64`.

    Raises: CheckpointError for a file that is none, would execute code, lacks the EMA, or holds another network, whose
    first three differences are named; SettingsError for what has to be said; UserError if RUN exists.
    """
    if run.is_dir() and any(run.iterdir()):
        raise UserError("is there already", str(run), "name a new folder for the RUN")
    found = found_in(read(file), file, peer, weights)
    known = replace(found.known, size=size or found.known.size)
    if qkv_first is not None:
        known = replace(known, qkv_first=qkv_first)
    found = replace(found, known=known)
    recipe = _recipe(found, file, schedule, images_seen, preset, changes)
    state, facts = fitting(found, recipe, file), _facts(found, recipe, file, images_seen)
    with opened(run, recipe) as folder:
        on_import(folder, recipe.data.shape, classes(found.weights), facts)
        Store(folder, recipe.training_values()).save(Weights(state, images_seen))
    return facts


def _recipe(
    found: Found, file: Path, schedule: str | None, images_seen: int, preset: str | None, changes: Sequence[str]
) -> Recipe:
    """The file's network with the preset's evaluation; of its training nothing is said but the images it saw."""
    size, schedule = found.known.size, schedule or found.known.schedule
    if size is None:
        raise SettingsError("is not told by the weights", "--size", "give the side of its images in pixels")
    if schedule is None:
        mend = "give linear or cosine, as guided-diffusion was trained with"
        raise SettingsError("is not told by the weights", "--schedule", mend)
    base = Recipe.load(preset or "demo").model_dump(mode="json")
    heads = found.known.head_channels or (base["model"].get("head_channels") if preset else None)
    if heads is None and not any(change.partition("=")[0].strip() == "model.head_channels" for change in changes):
        mend = "give --set model.head_channels=64 if its heads have 64 channels, or a preset that says it"
        raise SettingsError("is not told by the weights", "model.head_channels", mend)
    peer = parse(Peer, {"name": found.peer, "schedule": schedule}, str(file))
    recipe = Recipe.changed(
        base
        | {
            "name": file.stem,
            "data": base["data"] | {"size": size},
            "model": {"kind": "unet", "time_scale": 1.0, "head_channels": heads}
            | architecture(found.weights, size, file),
            "path": {"kind": "ot", "sigma_min": 0.0} if schedule == "ot" else {"kind": "vp"},
            "objective": peer.objective,
            "class_conditional": classes(found.weights) > 0,
            "training": {"total_images": images_seen},
            "peer": peer.model_dump(),
        },
        changes,
        str(file),
    )
    recipe.check()
    return recipe


def fitting(found: Found, recipe: Recipe, file: Path) -> dict[str, Tensor]:
    """The weights as our network holds them, float32: heads before q, k, v; of a learned variance only the noise.

    Raises: CheckpointError that names the first three weights that our network has not, or has in another shape.
    """
    state = {name: value.float() for name, value in found.weights.items()}
    if len(state.get("out.2.weight", ())) == 6:
        state |= {name: state[name][:3] for name in ("out.2.weight", "out.2.bias")}
    with torch.device("meta"):
        network = recipe.model.build(recipe.data.shape, classes(found.weights) or None).state_dict()
    if wrong := list(differing({"": network}, {"": state})):
        raise CheckpointError(f"is of another network ({'; '.join(wrong[:3])})", str(file))
    if found.known.qkv_first:
        heads_of = recipe.model.head_channels  # type: ignore[union-attr]
        state |= {name: heads_first(value, heads_of) for name, value in state.items() if ".qkv." in name}
    return {f"network.{name}": value.contiguous() for name, value in state.items()}


def _facts(found: Found, recipe: Recipe, file: Path, images_seen: int) -> dict[str, Any]:
    """What a user of the RUN has to know, in words."""
    assert recipe.peer is not None  # noqa: S101  _recipe gives one
    velocity = recipe.peer.schedule == "ot"
    time = "t in [0, 1], noise to data" if velocity else f"steps 0 to 999, {recipe.peer.schedule} schedule"
    facts = {
        "file": file.name,
        "sha256": sha256(file),
        "peer": found.peer,
        "weights": found.key,
        "predicts": "velocity" if velocity else "noise",
        "time": f"{time}; asked at equal noise-to-signal ratio",
        "pixels": f"{recipe.peer.pixels}; ours times 256/255 at each level's centre, converted exactly",
        "attention": "q, k, v before heads, reordered" if found.known.qkv_first else "heads before q, k, v",
        "classes": classes(found.weights),
        "images_seen": images_seen or "not told",
    }
    if len(found.weights["out.2.weight"]) == 6:
        facts["left out"] = "the learned variance, 3 of its 6 channels"
    return facts | {name: value for name, value in found.told.items() if isinstance(value, int | float | str)}


@dataclass(frozen=True)
class Weights:
    """What the store keeps of an imported network: no optimiser, and no weights but the chosen ones."""

    weights: dict[str, Tensor]
    images_seen: int

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        return {"ema": self.weights}

    def numbers(self) -> dict[str, Any]:
        return {"images_seen": self.images_seen, "seconds": 0.0, "tally": {}, "micro_batch_images": None}

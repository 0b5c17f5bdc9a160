"""`fm import`: a peer's checkpoint file -> a RUN to sample, score and compare.

What a file holds is read by `fm/peers/files.py`, how such a network is asked is `fm/peers/asking.py`.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fm.checkpoints import Store
from fm.errors import CheckpointError, SettingsError, UserError, several
from fm.facts import on_import
from fm.files import sha256
from fm.parsing import parse
from fm.peers import PEERS, SCHEDULES, Found, Known, Peer, architecture, classes, found_in, learns_variance, read
from fm.recipe import Recipe, opened
from fm.state import Weights, differing

# What `changes` may set: the rest is told by the file, or an import has no use for it.
CHANGEABLE = (
    "name",
    "evaluation",
    "path",
    "peer.pixels",
    "model.heads",
    "model.head_channels",
    "model.new_attention_order",
)
TIMES = {
    "ot": "t in [0, 1], noise to data, on straight lines",
    "trigonometric": "t in [0, 1], noise to data, on quarter circles",
    "linear": "steps 0 to 999, linear schedule",
    "cosine": "steps 0 to 999, cosine schedule",
}


def import_run(
    file: Path,
    run: Path,
    peer: str | None = None,
    weights: str = "ema",
    size: int | None = None,
    schedule: str | None = None,
    heads: int | None = None,
    new_attention_order: bool | None = None,
    images_seen: int = 0,
    preset: str | None = None,
    changes: Sequence[str] = (),
) -> dict[str, Any]:
    """Makes RUN of the checkpoint `file` -> what has to be known of it, as it stands in RUN/data.json.

    `peer`, `size`, `schedule` (`SCHEDULES`), `heads` and `new_attention_order` where the file does not tell, or where
    what its layout is known for does not hold; `weights` "model" takes what is not averaged. `preset` gives what is
    measured; `changes` change the recipe, such as `model.head_channels=64`, where the file does not tell.

    Raises: CheckpointError for a file that is none, would execute code, lacks the EMA, or holds another network, whose
    first three differences are named; SettingsError for what has to be said; UserError if RUN exists.
    """
    if run.is_dir() and any(run.iterdir()):
        raise UserError("is there already", str(run), "name a new folder for the RUN")
    for change in changes:
        _check_changeable(change)
    found = found_in(read(file), file, peer, weights)
    said = {"size": size, "schedule": schedule, "heads": heads, "new_attention_order": new_attention_order}
    said = {name: value for name, value in said.items() if value is not None}
    recipe = _recipe(found, replace(found.known, **said), file, images_seen, preset, changes)  # type: ignore[arg-type]
    state, facts = fitting(found, recipe, file), _facts(found, recipe, file, images_seen)
    told = {*said, *(change.partition("=")[0].strip().removeprefix("model.") for change in changes)}
    if assumed := _assumed(found, recipe, told):
        facts["assumed"] = assumed
    words = [f"{name} {value}" for name, value in said.items()]
    if words := [*words, *(change for change in changes if not change.startswith("evaluation."))]:
        facts["told by you"] = ", ".join(words)
    with opened(run, recipe) as folder:
        on_import(folder, recipe.data.shape, [str(label) for label in range(classes(found.weights))], facts)
        Store(folder, recipe.training_values()).save(Weights(state, images_seen))
    return facts


def _check_changeable(change: str) -> None:
    key = change.partition("=")[0].strip()
    if key == "data.size":
        raise SettingsError("is an option of its own", "--set data.size", "give --size")
    if not any(key == allowed or key.startswith(f"{allowed}.") for allowed in CHANGEABLE):
        what = "cannot be told: the file tells it, or an import has no use for it"
        raise SettingsError(what, f"--set {key}", f"leave it out; may be set: {', '.join(CHANGEABLE)}")


def _ask(found: Found, known: Known, changed: Collection[str], file: Path) -> None:
    """Raises: SettingsError with all that neither the file nor the user told."""
    missing = {}
    if not found.peer:
        missing["its peer"] = f"--peer {'|'.join(PEERS)}"
    if known.size is None:
        missing["the side of its images"] = "--size PIXELS"
    if not (known.heads or known.head_channels or {"model.heads", "model.head_channels"} & set(changed)):
        mend = "--heads N (so many at every level) or --set model.head_channels=N (so many channels in each)"
        missing["its attention heads"] = mend
    if not known.schedule:
        theirs = f"--schedule {'|'.join(SCHEDULES['guided-diffusion'])}"
        missing["its schedule"] = theirs if found.peer else f"{theirs} if it is guided-diffusion's"
    if missing:
        what = f"does not tell {' or '.join(missing)}"
        raise SettingsError(what, str(file), f"give {', '.join(missing.values())}")


def _recipe(
    found: Found, known: Known, file: Path, images_seen: int, preset: str | None, changes: Sequence[str]
) -> Recipe:
    """The file's network with the preset's evaluation; of its training nothing is said but the images it saw."""
    architecture(found.weights, known.size or 64, file)  # what is no such network is said before anything is asked
    changed = {change.partition("=")[0].strip() for change in changes}
    _ask(found, known, changed, file)
    if known.schedule not in SCHEDULES[found.peer]:
        what = f"{known.schedule!r} is none of {found.peer}'s"
        raise SettingsError(what, "--schedule", f"give {' or '.join(SCHEDULES[found.peer])}, as it was trained with")
    base = Recipe.load(preset or "demo").model_dump(mode="json")
    by_hand = bool(changed & {"model.heads", "model.head_channels"})
    heads = {} if by_hand else {"heads": known.heads, "head_channels": known.head_channels or 64}
    peer = parse(Peer, {"name": found.peer, "schedule": known.schedule}, str(file))
    recipe = Recipe.changed(
        base
        | {
            "name": file.stem,
            "data": base["data"] | {"size": known.size},
            "model": {"kind": "unet", "time_scale": 1.0, "new_attention_order": known.new_attention_order}
            | architecture(found.weights, known.size, file)  # type: ignore[arg-type]
            | heads,
            "path": {"kind": "ot", "sigma_min": 0.0} if peer.objective == "flow_matching" else {"kind": "vp"},
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
    """The weights as our network holds them, float32; of a learned variance only the noise.

    Raises: CheckpointError that names the first three weights that our network has not, or has in another shape, or
    the first that is no finite number.
    """
    state = {name: value.float() for name, value in found.weights.items()}
    if learns_variance(state):
        state |= {name: state[name][:3] for name in ("out.2.weight", "out.2.bias") if name in state}
    with torch.device("meta"):
        network = recipe.model.build(recipe.data.shape, classes(found.weights) or None).state_dict()
    if wrong := list(differing({"": network}, {"": state})):
        raise CheckpointError(f"is of another network ({'; '.join(wrong[:3])})", str(file))
    for name, value in found.weights.items():
        if not value.is_floating_point() or not value.isfinite().all():
            what = f"{name} is not finite" if value.is_floating_point() else f"{name} is of {value.dtype}, no weights"
            raise CheckpointError(what, str(file), "save it again, or another checkpoint of the training")
    return {f"network.{name}": value.contiguous() for name, value in state.items()}


def _facts(found: Found, recipe: Recipe, file: Path, images_seen: int) -> dict[str, Any]:
    """What a user of the RUN has to know, in words."""
    assert recipe.peer is not None  # noqa: S101  _recipe gives one
    facts = {
        "file": file.name,
        "sha256": sha256(file),
        "peer": found.peer,
        "weights": found.key,
        "predicts": "velocity" if recipe.objective == "flow_matching" else "noise",
        "time": f"{TIMES[recipe.peer.schedule]}; asked at equal noise-to-signal ratio",
        "time scale": f"{recipe.model.time_scale:g} before the sinusoids",  # type: ignore[union-attr]
        "pixels": f"{recipe.peer.pixels}; ours times 256/255 at each level's centre, converted exactly",
        "attention": f"{_heads(recipe)}; {_order(recipe)}",
        "classes": classes(found.weights),
        "images_seen": images_seen or "not told",
    }
    if learns_variance(found.weights):
        facts["left out"] = "the learned variance, 3 of its 6 channels"
    return facts | {name: value for name, value in found.told.items() if isinstance(value, int | float | str)}


def _assumed(found: Found, recipe: Recipe, told: Collection[str]) -> str:
    """What neither the weights nor the user told, and whence it was taken."""
    known, words = found.known, []
    if known.size and "size" not in told:
        words.append(f"{known.size} px")
    if known.schedule and "schedule" not in told:
        words.append(f"schedule {known.schedule}")
    if not {"heads", "head_channels"} & set(told):
        words.append(_heads(recipe))
    if "new_attention_order" not in told and recipe.model.heads != 1:  # type: ignore[union-attr]
        words.append(_order(recipe))
    return f"{', '.join(words)}: by {known.whence}" if words else ""


def _heads(recipe: Recipe) -> str:
    heads, channels = recipe.model.heads, recipe.model.head_channels  # type: ignore[union-attr]
    return several(heads, "head") if heads else f"heads of {channels} channels"


def _order(recipe: Recipe) -> str:
    return "q, k, v before heads" if recipe.model.new_attention_order else "heads before q, k, v"  # type: ignore[union-attr]

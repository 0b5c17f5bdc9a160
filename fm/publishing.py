"""A published network: one folder with safetensors, its settings and a model card, which `fm.load` takes as a RUN.

It is a RUN of one set of weights and no optimiser, as `fm import` makes them: it draws, scores and is compared, and is
not trained further; a training that begins with its weights is a RUN of its own.
"""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fm.checkpoints import INITIAL, Store, load_weights, newest
from fm.data.addresses import is_address
from fm.errors import CheckpointError, UserError
from fm.facts import facts_of, on_import
from fm.files import atomic, sha256, sync_folder, write_json, write_text
from fm.keeping import NAMED, named
from fm.optimised import grids_file
from fm.recipe import Recipe
from fm.results import Row, bits_text, distance_text, distances, floor_text, label
from fm.state import Weights

CARD = "README.md"


def publish(run: Path, weights: str, into: Path, name: str, rows: Sequence[Row]) -> Path:
    """Makes the folder `into` of RUN's weights (SHA-256), whole or not at all, with rows that were measured of them.

    Raises: CheckpointError if RUN has no such weights, UserError if the folder is there and holds others.
    """
    if into.exists():
        if published_weights(into) != weights:
            raise UserError("is there already, with other weights", str(into), "remove it, or choose another folder")
        return into
    tensors, info = load_weights(run, weights)
    return published(run, Weights(tensors, info["images_seen"]), into, name, rows, due=weights)


def published(
    run: Path, state: Weights, into: Path, name: str, rows: Sequence[Row] = (), due: str = "", **told: Any
) -> Path:
    """As `publish`, of any weights for RUN's network, which are to have the SHA-256 that is `due`; `told` are facts of
    them for data.json and the card."""
    recipe, data = Recipe.load(run), facts_of(run)
    trained_on = {key: data[key] for key in ("source", "images")} | {"data": data["digest"]}
    part = into.with_name(f".{into.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        write_json(part / "recipe.json", recipe.model_dump(mode="json"))
        weights = Store(part, recipe.training_values()).save(state).weights
        if due and weights != due:
            raise CheckpointError(f"came out as {weights[:16]}, not {due[:16]}", str(run))
        known = {"published": name, "weights": weights, "images_seen": state.images_seen, **told, **trained_on}
        on_import(part, data["shape"], data["classes"], known)
        if (grids := grids_file(run, weights)).exists():
            grids_file(part, weights).parent.mkdir()
            shutil.copyfile(grids, grids_file(part, weights))
        write_text(part / CARD, card(name, recipe, known, data["shape"], rows))
        os.rename(part, into)
        sync_folder(into.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return into


def published_weights(folder: Path) -> str:
    """The SHA-256 of a published network's weights, as its folder says; empty if it is none."""
    if not (folder / "data.json").exists():
        return ""
    return str(facts_of(folder).get("imported", {}).get("weights", ""))


def begin_with(there: Path, weights: str, run: Path) -> None:
    """Puts the newest weights of a network that was published or trained, whose SHA-256 are these, where a training
    that begins with them looks for them."""
    file = run / INITIAL
    if file.exists() and sha256(file) == weights:
        return
    saved = newest(there)
    if saved is None or saved.weights != weights:
        raise CheckpointError(f"does not hold its weights {weights[:16]} any more", str(there), "remove it")
    with open(saved.path / "ema.safetensors", "rb") as source, atomic(file) as copy:
        shutil.copyfileobj(source, copy)


def note_used(run: str, weights: str, by: str) -> None:
    """Notes in a RUN which of its weights another one uses, and how (`by`), so that nothing removes their checkpoint.

    At an address, or in a folder that cannot be written to, nothing is tidied away either.
    """
    if not is_address(run):
        with suppress(OSError, UserError):
            note_cited(Path(run), weights, by)


def note_cited(run: Path, weights: str, name: str, version: str = "") -> None:
    """Notes in RUN which of its weights a registry or another RUN names, so that nothing removes their checkpoint."""
    known = named(run)
    if not any((one["weights"], one["version"]) == (weights, version) for one in known):
        write_json(run / NAMED, {"weights": [*known, {"weights": weights, "model": name, "version": version}]})


def card(name: str, recipe: Recipe, facts: Mapping[str, Any], shape: Sequence[int], rows: Iterable[Row]) -> str:
    """The model card, in Markdown: what it is, how to use it, how good by which measure, where it comes from."""
    channels, height, width = shape
    lines = [
        f"# {_plain(name)}",
        "",
        f"A {width} x {height} image model ({channels} channels), trained by {recipe.objective} on the "
        f"{recipe.path.kind} path for {facts['images_seen']:,} images.",
        "",
        "```python",
        "import fm",
        "flow = fm.load('FOLDER')  # this folder",
        *_drawing(recipe),
        "```",
        "",
        "## Measured",
        "",
        *_table([row for row in rows if "failed" not in row]),
        "",
        "Distances stand with their 95 % interval; the floor is what as many real images get. A distance is FID only",
        "where its name says inception.",
        "",
        "## Where it comes from",
        "",
        *[f"- {_plain(key)}: {_plain(value)}" for key, value in facts.items() if value not in ("", None, {})],
        f"- recipe: {recipe.digest()}",
    ]
    return "\n".join(lines) + "\n"


def _drawing(recipe: Recipe) -> list[str]:
    """How the card says that the network draws."""
    drawn = "uint8 (16, channels, height, width)"
    if not (side := recipe.low_size):
        return [f"images = flow.sample(16, seed=0, method='midpoint', nfe=32)  # {drawn}"]
    return [
        f"low = fm.enlarging.small_picture('small.png', {side})[None]  # a picture of {side} px",
        f"images = flow.sample(16, seed=0, method='midpoint', nfe=32, low=low)  # {drawn}",
    ]


def _table(rows: Sequence[Row]) -> list[str]:
    names = distances(rows)
    head = ["solver", "NFE", *[word for name in names for word in (name, "floor")], "bits/dim", "samples", "seed"]
    body = [
        [
            f"{row['method']}, {label(row)}",
            str(row["nfe"]),
            *[text(row, name) for name in names for text in (distance_text, floor_text)],
            bits_text(row),
            str(row["samples"]),
            str(row["seed"]),
        ]
        for row in rows
    ]
    return [f"| {' | '.join(map(_plain, line))} |" for line in [head, ["---"] * len(head), *body]]


def _plain(value: Any) -> str:
    """One line in which nothing that came with data is markup."""
    text = " ".join(str(value).split())
    for mark, instead in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;"), ("`", "'")):
        text = text.replace(mark, instead)
    return text

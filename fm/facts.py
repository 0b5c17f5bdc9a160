"""RUN/data.json: what a network was trained on, where that lies now, and what it may be measured on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fm.data import Manifest, settled
from fm.data.plane import Points
from fm.errors import SettingsError, UserError
from fm.files import read_json, write_json
from fm.runs import pulled


def facts_of(run: Path | str) -> dict[str, Any]:
    """RUN/data.json: what it was trained on (`data` its place, `digest`, `shape`, `classes`, `order`); of a training on
    drawn images (`drawn`: by whom, how many, their place and digest) what it is judged by.

    Raises: UserError if the file is not there or is no longer what was written.
    """
    file = Path(run) / "data.json"
    facts = read_json(file)
    if not isinstance(facts, dict) or not {"data", "digest", "shape", "classes"} <= facts.keys():
        raise UserError("is not what was written there", str(file), "restore it from a copy")
    return facts


def is_trained(run: Path) -> bool:
    """Whether RUN has a checkpoint: a start that failed before its first one binds RUN to nothing."""
    return any((run / "checkpoints").glob("[0-9]*"))


def check_trainable(run: str | Path) -> None:
    """Raises: SettingsError if RUN's network was imported."""
    folder = pulled(run)
    if (folder / "data.json").exists() and "imported" in facts_of(folder):
        raise SettingsError("is an imported network without an optimiser", str(run), "train in another RUN")


def on_data(
    run: Path, data: str | Path, manifest: Manifest, order: str = "", drawn: Mapping[str, Any] | None = None
) -> None:
    """Notes in RUN/data.json what it is trained on, where that lies now, and the fingerprint of the data's order;
    `drawn` says of which drawn images instead.

    Raises: SettingsError if RUN was trained on other data.
    """
    there, facts = check_data(run, data, manifest, order)
    _note(run, there, facts | ({"drawn": dict(drawn)} if drawn else {}))


def check_data(
    run: Path, data: str | Path, manifest: Manifest, order: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `on_data` finds in RUN/data.json and what it is to say; writes nothing, raises as `on_data`."""
    facts: dict[str, Any] = {"data": settled(data), "digest": manifest.digest, "source": manifest.source}
    images = {name: split.images for name, split in manifest.splits.items()}
    facts |= {"shape": list(manifest.shape), "classes": list(manifest.classes), "images": images}
    return _checked(run, facts, order)


def on_points(run: Path, points: Points, order: str = "") -> None:
    """Notes in RUN/data.json which points it is trained on: they lie nowhere, each is made when it is asked for.

    Raises: SettingsError if RUN was trained on other data.
    """
    facts = {"data": "", "digest": points.digest, "source": f"points:{points.distribution}"}
    _note(run, *_checked(run, facts | {"shape": list(points.shape), "classes": [], "images": {}}, order))


def on_import(run: Path, shape: Sequence[int], classes: Sequence[str], facts: dict[str, Any]) -> None:
    """Notes in RUN/data.json that its network was trained elsewhere, on data not at hand, and what is known of it."""
    of_data: dict[str, Any] = {"shape": list(shape), "classes": list(classes), "images": {}}
    trained_on = {"data": "", "digest": "", "source": "unknown"} | of_data
    write_json(run / "data.json", trained_on | {"order": "", "imported": facts})


def _note(run: Path, there: dict[str, Any], facts: dict[str, Any]) -> None:
    if there != facts:
        write_json(run / "data.json", facts)


def _checked(run: Path, facts: dict[str, Any], order: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """RUN/data.json as it is and as it is to be; who names no order (an evaluation) keeps the one that is there."""
    there = facts_of(run) if (run / "data.json").exists() else {}
    if "imported" in there:
        facts = _scored_on(run, there, facts, order)
    elif there and is_trained(run) and there["digest"] != facts["digest"]:
        raise SettingsError(
            f"was trained on data {there['digest']}, not {facts['digest']}", str(run), "choose another RUN folder"
        )
    if order and is_trained(run) and there.get("order", order) not in ("", order):
        what = f"was trained in the order {there['order']}, not {order}"
        raise SettingsError(what, str(run), "choose another RUN folder, or the version that wrote it")
    kept = {"drawn": there["drawn"]} if "drawn" in there else {}
    return there, facts | kept | {"order": order or there.get("order", "")}


def _scored_on(run: Path, there: dict[str, Any], facts: dict[str, Any], order: str) -> dict[str, Any]:
    """What RUN/data.json says of an imported network that is scored on a data set, any one that fits it."""
    if order:
        check_trainable(run)
    if there["shape"] != facts["shape"] or len(there["classes"]) not in (0, len(facts["classes"])):
        sizes = [f"{'x'.join(map(str, side['shape']))}, {len(side['classes'])} classes" for side in (there, facts)]
        raise SettingsError(f"its network is of {sizes[0]}, the data of {sizes[1]}", str(run), "prepare data alike")
    return facts | {"classes": there["classes"], "imported": there["imported"]}

"""Which checkpoints of a RUN stay when newer ones come: by count and place, the best, and those that a registry or
another RUN names.

`fm/checkpoints.py` writes and reads them.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fm.files import read_json, write_json

BEST = "best.json"  # beside the checkpoints: which is the best by what measure
NAMED = "champion.json"  # in RUN: what a registry names of it, and RUNs that it guides or draws for


def staying(saved: Iterable[int], keep: int, keep_every_images: int | None) -> set[int]:
    """The images seen of the checkpoints that a Store keeps of those saved, whether the newer ones are there or not."""
    newest_first = sorted(saved, reverse=True)
    kept = set(newest_first[:keep])
    if keep_every_images:
        first_of = {images // keep_every_images: images for images in newest_first}  # the oldest stands
        kept |= {images for multiple, images in first_of.items() if multiple > 0}
    return kept


def named(run: Path | str) -> list[dict[str, str]]:
    """What is named of a RUN elsewhere: `weights` (SHA-256), and `model` and `version` in a registry, or `model` in
    words.

    Raises: UserError if the note is no longer what was written.
    """
    file = Path(run) / NAMED
    return list(read_json(file)["weights"]) if file.exists() else []


def best_name(run: Path | str) -> str:
    """The name of the checkpoint that `mark_best` keeps; empty if there is none."""
    best = _best(run)
    return best["checkpoint"] if best else ""


def mark_best(run: Path | str, checkpoint: str, value: float, measure: str) -> bool:
    """Keeps a checkpoint, in place of the one kept so, if its `value` is the lowest by this `measure` -> whether it is.

    What is measured how is the caller's business; a value by another measure gives way. A checkpoint that a training
    has removed meanwhile is not kept.
    """
    folder, best = Path(run) / "checkpoints", _best(run)
    if (best and best["measure"] == measure and best["value"] <= value) or not (folder / checkpoint).exists():
        return False
    write_json(folder / BEST, {"checkpoint": checkpoint, "measure": measure, "value": value})
    return True


def _best(run: Path | str) -> dict[str, Any] | None:
    """What `mark_best` wrote; None if nothing, or if it can no longer be read: the next evaluation writes it anew."""
    try:
        best = json.loads((Path(run) / "checkpoints" / BEST).read_text())
        return {"checkpoint": str(best["checkpoint"]), "measure": best["measure"], "value": float(best["value"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None

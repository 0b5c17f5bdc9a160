"""What of a RUN's scratch may go: parts of rows that are there, and solutions that no evaluation would look for.

What an evaluation that was interrupted goes on from stays.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from fm.cells import Cell, cell_of, cells
from fm.checkpoints import read_info
from fm.errors import CheckpointError, UserError
from fm.evaluation import AGAIN, KINDS, PARTS, solutions_name
from fm.facts import facts_of
from fm.housekeeping.plan import DAY_S, PART, Judged, Kept, Removal, entries, kept, leftover, size_of, touched, unknown
from fm.recipe import Recipe
from fm.results import read_row, read_rows

SOLUTIONS = re.compile(r"converged-[0-9a-f]{16}\.safetensors")
OF_ROW = re.compile(rf"({'|'.join(KINDS)})-\d+\.safetensors|{SOLUTIONS.pattern}")
KEY = re.compile("[0-9a-f]{16}")


def scratch_judged(
    run: Path, recipe: Recipe, checkpoints: Iterable[Path], unfinished_s: float | None, now: float
) -> list[Judged]:
    """Verdicts on all that lies in RUN/.parts, of which these checkpoints stay.

    Unfinished evaluations stay, unless nobody has worked on them for `unfinished_s` (none: for however long).
    """
    verdicts, solutions = list[Judged](), list[Path]()
    for path in entries(run / PARTS):
        if path.is_symlink():
            verdicts.append(unknown(path))
        elif SOLUTIONS.fullmatch(path.name) and path.is_file():
            solutions.append(path)
        elif PART.fullmatch(path.name):
            verdicts.append(leftover(path, now))
        elif path.name == AGAIN and all(_ours(inside) for inside in entries(path)):
            verdicts.append(Removal(path, size_of(path), "of rows that were measured once more"))
        else:
            verdicts.append(_of_row(run, path, unfinished_s, now))
    going_on = any(isinstance(one, Kept) and KEY.fullmatch(one.path.name) for one in verdicts)
    current = _current(run, recipe, checkpoints) if solutions else set[str]()
    for path in solutions:
        if path.name in current:
            verdicts.append(kept(path, "cells of these weights are measured against it"))
        elif going_on:
            verdicts.append(kept(path, "an unfinished evaluation may go on from it"))
        else:
            verdicts.append(Removal(path, size_of(path), "of weights, settings or code that are not here any more"))
    return verdicts


def _of_row(run: Path, parts: Path, unfinished_s: float | None, now: float) -> Judged:
    """The verdict on the parts of one row."""
    if not (parts.is_dir() and _ours(parts)):
        return unknown(parts)
    row = None
    with suppress(UserError):
        row = read_row(run, parts.name)
    if row is not None and "failed" not in row:
        return Removal(parts, size_of(parts), "its row is there")
    idle_s = now - touched(parts)
    if unfinished_s is None or idle_s < unfinished_s:
        return kept(parts, "an unfinished evaluation goes on from it (--older-than DAYS lets it go)")
    return Removal(parts, size_of(parts), f"of an evaluation left unfinished {idle_s / DAY_S:.0f} days ago")


def _ours(path: Path) -> bool:
    """Whether this project wrote a thing of RUN/.parts: a file, or a row's folder with all that lies in it."""
    if path.is_symlink():
        return False
    if path.is_dir():
        return bool(KEY.fullmatch(path.name)) and all(_ours(file) and file.is_file() for file in entries(path))
    return bool(OF_ROW.fullmatch(path.name) or PART.fullmatch(path.name))


def _current(run: Path, recipe: Recipe, checkpoints: Iterable[Path]) -> set[str]:
    """The files of solutions that an evaluation by this code of weights that stay would look for."""
    measured = [*cells(recipe.evaluation)] if recipe.evaluation else list[Cell]()
    for row in read_rows(run):
        with suppress(UserError, KeyError, TypeError, ValueError):
            measured.append(cell_of(row))
    weights = set[str]()
    for path in checkpoints:
        with suppress(CheckpointError):
            weights.add(read_info(path)["sha256"]["ema"])
    data = facts_of(run)["digest"] if (run / "data.json").exists() else ""
    return {solutions_name(one, cell, data) for one in weights for cell in measured if cell.error_images}

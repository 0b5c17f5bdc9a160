"""What of a RUN may go: checkpoints past those that it keeps, scratch of what has ended, what killed writers left.

Never a checkpoint that a reported number or the champion names by a SHA-256, nor the best, nor the newest whole one.
Whoever asks holds the RUN: nobody else is at work there.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fm.checkpoints import INITIAL, STATE, Damaged, damage, read_info
from fm.demo2d.measuring import FILE as MEASURED
from fm.errors import CheckpointError, UserError, several
from fm.evaluation import PARTS
from fm.files import sha256
from fm.housekeeping.plan import GONE, PART, Judged, Kept, Removal, entries, files_in, kept, leftover, size_of, unknown
from fm.housekeeping.scratch import scratch_judged
from fm.keeping import BEST, NAMED, best_name, staying
from fm.recipe import Recipe, recorded

OURS = {
    **dict.fromkeys(("recipe.json", "data.json", INITIAL, NAMED), "what the weights are and come from"),
    "published": "networks that a registry names",
    "averages": "networks of averages of other lengths",
    "grids": "time grids chosen for the weights",
    **dict.fromkeys(("records", "logs", "session.json", "tracking.json", "failure.json", ".lock"), "what happened"),
    **dict.fromkeys(("evaluations", "report", "report.html", "comparison", "samples", MEASURED), "what was reported"),
}
OF_COMPARISON = ("data", "guides", "report", "report.html", "session.json", "tracking.json", "failure.json", ".lock")
DAMAGED = ".damaged"
SHA256 = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
OF_CHECKPOINT = re.compile(rf"{re.escape(STATE)}|\w+\.safetensors")


@dataclass(frozen=True)
class Cited:
    """The SHA-256 that reported numbers name, and those that the champion's note names."""

    reported: frozenset[bytes]
    champion: frozenset[bytes]


def cited(folders: Iterable[Path]) -> Cited:
    """What RUNs, and the comparison that they are of, name: every SHA-256 in rows, tables and notes, readable or not.

    Raises: UserError if such a file cannot be read: nobody knows what it names.
    """
    reported, champion = set[bytes](), set[bytes]()
    for folder in folders:
        rows = [path for path in (folder / "evaluations").rglob("*") if not path.is_dir()]
        tables = [path for path in (folder / "report").glob("*") if path.suffix in (".csv", ".json")]
        measured = [folder / MEASURED] if (folder / MEASURED).exists() else []
        reported.update(*(_named(file) for file in [*rows, *tables, *measured]))
        note = folder / NAMED
        if note.exists() or note.is_symlink():
            champion |= _named(note)
            if not _named(note):
                raise UserError("names no weights by their SHA-256", str(note), "restore it, or remove it")
    return Cited(frozenset(reported), frozenset(champion))


def _named(file: Path) -> set[bytes]:
    try:
        return set(SHA256.findall(file.read_bytes().lower()))
    except OSError as error:
        what = f"cannot be read ({error.strerror}), so which checkpoints it cites is not known"
        raise UserError(what, str(file), "give yourself the right to read it, or restore it") from None


def judged(run: Path, keep: int | None, unfinished_s: float | None, now: float, of: Cited) -> list[Judged]:
    """A verdict on everything that lies in RUN.

    `keep` newest whole checkpoints stay (none: those that the recipe keeps), and unfinished evaluations unless nobody
    has worked on them for `unfinished_s` (none: for however long).

    Raises: UserError if the recipe cannot be read.
    """
    recipe, found = recorded(run), list[Judged]()
    for path in entries(run):
        if path.is_symlink():
            found.append(unknown(path))
        elif path.name == "checkpoints":
            found += _checkpoints(run, recipe, keep, now, of)
        elif path.name == PARTS:
            pass  # below, when it is known which weights stay
        elif path.name == ".ray":
            found.append(Removal(path, size_of(path), "scratch of a training that was killed"))
        else:
            found += ours(path, OURS, now)
    stay = [one.path for one in found if isinstance(one, Kept) and one.path.parent == run / "checkpoints"]
    return found + scratch_judged(run, recipe, stay, unfinished_s, now)


def ours(path: Path, why: dict[str, str], now: float) -> list[Judged]:
    """A file or folder by its name: kept if it is known, or unknown; with what killed writers left below it."""
    if PART.fullmatch(path.name):
        return [leftover(path, now)]
    if path.name not in why:
        return [unknown(path)]
    torn = [leftover(file, now) for file in files_in(path) if file != path and PART.fullmatch(file.name)]
    return [Kept(path, size_of(path) - sum(one.bytes for one in torn), why[path.name]), *torn]


def comparison_judged(
    out: Path, members: Iterable[Path], keep: int | None, unfinished_s: float | None, now: float
) -> list[Judged]:
    """A verdict on everything in a comparison's folder: each member by the rule of a RUN."""
    members, why = [*members], dict.fromkeys(OF_COMPARISON, "of the comparison")
    of, found = cited([out, *members]), list[Judged]()
    for path in entries(out):
        if path in members:
            found += judged(path, keep, unfinished_s, now, of)
        else:
            found += [unknown(path)] if path.is_symlink() else ours(path, why, now)
    return found


def _checkpoints(run: Path, recipe: Recipe, keep: int | None, now: float, of: Cited) -> list[Judged]:
    found = list[Judged]()
    folder = run / "checkpoints"
    numbered = [path for path in entries(folder) if path.name.isdigit() and _is_checkpoint(path)]
    stays = _staying(run, numbered, recipe, keep, of)
    for path in entries(folder):
        if path in numbered:
            why, goes = stays[path]
            found.append(Removal(path, size_of(path), why) if goes else kept(path, why))
        elif path.name == BEST and not path.is_symlink():
            found.append(kept(path, "names the best one"))
        elif path.name.removesuffix(DAMAGED).isdigit() and _is_checkpoint(path):
            cites = _citing(path, of)
            why = cites or "damaged, and set aside when the training went on"
            found.append(kept(path, why) if cites else Removal(path, size_of(path), why))
        elif PART.fullmatch(path.name) and (path.name.endswith(GONE) or path.is_file() or _is_checkpoint(path)):
            found.append(unknown(path) if path.is_symlink() else leftover(path, now))
        else:
            found.append(unknown(path))
    return found


def _is_checkpoint(path: Path) -> bool:
    """Whether it is a folder that holds nothing but what a checkpoint is made of."""
    if path.is_symlink() or not path.is_dir():
        return False
    inside = [*path.iterdir()]
    return all(OF_CHECKPOINT.fullmatch(p.name) and p.is_file() and not p.is_symlink() for p in inside)


def _staying(
    run: Path, numbered: list[Path], recipe: Recipe, keep: int | None, of: Cited
) -> dict[Path, tuple[str, bool]]:
    """Of each checkpoint why it stays or goes, and whether it goes."""
    newest = recipe.training.keep if keep is None else keep
    every = recipe.training.keep_every_images if keep is None else None
    regular = staying((int(path.name) for path in numbered), 0, every)
    whole, damaged = _newest_whole(numbered, newest)
    best, found = best_name(run), dict[Path, tuple[str, bool]]()
    for path in numbered:
        if path in damaged and not whole:
            why = "no checkpoint is whole: for you to look at"
        elif why := _citing(path, of):
            pass
        elif path in damaged and not damage(path, "ema"):
            why = "damaged, but its averaged weights are whole: a load may take them"
        elif path.name == best:
            why = "the best by its evaluation"
        elif path in whole:
            why = "the newest whole one" if path == whole[0] else f"among the newest {newest} whole ones"
        elif int(path.name) in regular:
            why = f"the first of {several(every or 0, 'image')}, as its recipe keeps them"
        if not why:
            what = damaged.get(path) or f"older than the newest {several(newest, 'whole one')}"
            found[path] = f"{what}; no reported number cites it", True
        else:
            found[path] = why, False
    return found


def _newest_whole(numbered: list[Path], count: int) -> tuple[list[Path], dict[Path, str]]:
    """So many of the newest whose files have their SHA-256, and those passed over, with what is wrong."""
    whole, damaged = list[Path](), dict[Path, str]()
    for path in sorted(numbered, reverse=True):
        if len(whole) < count:
            try:
                wrong = damage(path)
            except CheckpointError as error:  # of another version, to which it may be whole
                wrong = error.what
            if wrong:
                damaged[path] = wrong
            else:
                whole.append(path)
    return whole, damaged


def _citing(checkpoint: Path, of: Cited) -> str:
    """Why the weights of a checkpoint are not to go; empty if nothing names any of its files."""
    try:
        hashes = {str(value).encode() for value in read_info(checkpoint)["sha256"].values()}
    except Damaged:  # what it holds is what counts
        hashes = {sha256(file).encode() for file in checkpoint.glob("*.safetensors")}
    except CheckpointError:
        return "of another version of this program"
    if hashes & of.champion:
        return f"{NAMED} names its weights"
    return "a reported number cites its weights" if hashes & of.reported else ""

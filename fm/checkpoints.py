"""Checkpoints that are whole or absent: hashed safetensors in one folder each, under RUN/checkpoints/<images seen>.

Nothing that is executed on loading is ever written or read. The newest whole one is the only authority on where a run
stands; a damaged one is renamed, said aloud, and the one before it used.
"""

import copy
import json
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fm.errors import CheckpointError, UserError, nearest
from fm.files import SHA256_DIGITS, patiently, sha256, sync_folder
from fm.keeping import best_name, named, staying
from fm.lineage import differences, digest
from fm.state import Files, Snapshot, State, copy_into

FORMAT = 2
STATE = "state.json"
INITIAL = "initial.safetensors"


class Damaged(CheckpointError):
    """A checkpoint whose files are not what its state.json says: the one before it is used."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is on the disk; `weights` is the SHA-256 of its first EMA's weights, the name of this model."""

    images_seen: int
    seconds: float
    path: Path
    weights: str


class Store:
    """The checkpoints of one RUN, bound to recipe (values as JSON has them, or a digest), data digest and order.

    Keeps the newest `keep`, of every `keep_every_images` the first, and those that `fm/keeping.py` has notes of. A run
    without any begins with the weights in RUN/initial.safetensors if `initial`, their SHA-256, is given.
    """

    def __init__(
        self,
        run: Path | str,
        recipe: Any = "",
        data: str = "",
        keep: int = 3,
        order: str = "",
        keep_every_images: int | None = None,
        initial: str | None = None,
    ) -> None:
        self.folder, self.initial = Path(run) / "checkpoints", initial
        self.identity = {"recipe": recipe, "data": data, "order": order}
        self.keep, self.keep_every_images = keep, keep_every_images
        self.newest: Saved | None = None  # of those this store restored or saved
        self.restored = ""  # what restore_newest_good found, in one line for the user
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Saved] | None = None

    @property
    def images_seen(self) -> int:
        """Where a run stands that starts now: records past it are to be cut."""
        return self.newest.images_seen if self.newest else 0

    @property
    def written(self) -> bool:
        """Whether what `begin` began has come to its end, so that `finish` returns at once."""
        return self._writing is not None and self._writing.done()

    def begin(self, state: Snapshot) -> None:
        """Copies the state and starts to write it on a thread of its own: training goes on meanwhile.

        What is still being written is finished first; a place that is already saved is not saved again.
        """
        self.settle()
        if self.newest is None or self.newest.images_seen != state.images_seen:
            copies = {
                file: {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
                for file, tensors in state.tensors().items()
            }
            self._writing = self._writer.submit(self._write_patiently, copies, copy.deepcopy(state.numbers()))

    def finish(self) -> Saved:
        """Waits for what `begin` began -> the newest checkpoint.

        Raises: CheckpointError if the disk refused for longer than a moment.
        """
        saved = self.settle()
        assert saved is not None  # noqa: S101  begin leaves one, or settling raises
        return saved

    def save(self, state: Snapshot) -> Saved:
        """Begins and finishes: for callers who wait."""
        self.begin(state)
        return self.finish()

    def settle(self) -> Saved | None:
        """Waits for a write, if one is under way -> the newest checkpoint, if there is one."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            self.newest = writing.result()
        return self.newest

    def _write_patiently(self, files: Files, numbers: dict[str, Any]) -> Saved:
        target = self.folder / f"{numbers['images_seen']:012d}"
        patiently(lambda: self._write(target, files, numbers), "a checkpoint", self.folder, CheckpointError)
        with suppress(OSError):  # those that storage keeps for now go after the next one
            for old in self._outdated():
                shutil.rmtree(old, ignore_errors=True)
        return _saved(target, read_info(target))

    def _write(self, target: Path, files: Files, numbers: dict[str, Any]) -> None:
        """Under a temporary name, synced to the disk, then renamed; a try before this one may have come that far."""
        if target.exists():
            return sync_folder(self.folder)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            part.mkdir(parents=True, exist_ok=True)
            hashes = {name: _write(_path(part, name), tensors) for name, tensors in files.items()}
            info = {"format": FORMAT, **numbers, **self.identity, "sha256": hashes}
            info["check"] = digest(info)
            (part / STATE).write_text(json.dumps(info, indent=2, allow_nan=False) + "\n")
            _sync(part / STATE)
            sync_folder(part)
            os.rename(part, target)
            sync_folder(self.folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _outdated(self) -> list[Path]:
        found = _newest_first(self.folder)
        kept = staying((int(folder.name) for folder in found), self.keep, self.keep_every_images)
        best = best_name(self.folder.parent)
        try:
            cited = {one["weights"] for one in named(self.folder.parent)}
        except UserError:
            return []  # what a registry names here nobody can read: nothing goes
        return [
            folder
            for folder in found
            if int(folder.name) not in kept and folder.name != best and not (cited and _weights_of(folder) in cited)
        ]

    def restore_newest_good(self, state: State) -> None:
        """Copies the newest whole checkpoint into the state; says in `restored` which, and why not a newer one.

        Raises: CheckpointError if it belongs to another recipe, data set or network, or if all are damaged.
        """
        for torn in self.folder.glob(".*.part"):
            shutil.rmtree(torn, ignore_errors=True)
        damaged: dict[Path, str] = {}
        found = _newest_whole(self.folder, (), damaged)
        if found is None and damaged:  # they stay as they are: the next start must not take this RUN for a new one
            raise CheckpointError(
                f"no checkpoint is whole{_because(damaged)}", where=str(self.folder), mend="start in a new RUN"
            )
        for folder in damaged:
            _set_aside(folder)
        if found is None:
            self.restored = "started at 0 images" + (self._take_initial(state) if self.initial else "")
            return
        folder, info = found
        self.newest = _saved(folder, info)
        self.check_identity(self.newest)
        copy_into(state.tensors(), {file: load_file(_path(folder, file)) for file in info["sha256"]}, folder)
        state.set_numbers(info)
        self.restored = f"resumed at {state.images_seen:,} images{_because(damaged)}"

    def _take_initial(self, state: State) -> str:
        """Copies the initial weights into the network and its averages -> what to say of them."""
        file = self.folder.parent / INITIAL
        if not file.exists() or sha256(file) != self.initial:
            what = f"does not hold the weights {str(self.initial)[:16]} that its recipe begins with"
            raise CheckpointError(what, where=str(file), mend="`fm retrain` puts them there")
        live = {name: tensors for name, tensors in state.tensors().items() if name in ("model", *state.averages)}
        copy_into(live, dict.fromkeys(live, load_file(file)), file)
        return f" with the weights {str(self.initial)[:16]}"

    def check_identity(self, saved: Saved) -> None:
        """Raises: CheckpointError, with the keys that differ, if it belongs to another recipe, data set or order."""
        info = read_info(saved.path)
        if differ := differences({key: info[key] for key in self.identity}, self.identity):
            raise CheckpointError(
                f"belongs to another run ({'; '.join(differ)})", where=str(saved.path), mend="choose another RUN"
            )


def newest_name(run: Path | str) -> str:
    """The name of a RUN's newest checkpoint, whether it is whole or not; empty if there is none."""
    return next((folder.name for folder in _newest_first(Path(run) / "checkpoints")), "")


def newest(run: Path | str) -> Saved | None:
    """The newest checkpoint of a RUN whose files are as it says; None if there is none."""
    found = _newest_whole(Path(run) / "checkpoints", (), {})
    return _saved(*found) if found else None


def kept(run: Path | str) -> list[Saved]:
    """All checkpoints of a RUN whose state can be read, the oldest first; their weights are not looked at."""
    found = []
    for folder in reversed(_newest_first(Path(run) / "checkpoints")):
        with suppress(Damaged):
            found.append(_saved(folder, read_info(folder)))
    return found


def damage(folder: Path, *files: str) -> str:
    """Why a checkpoint's files, or the named ones, are not what its state.json says; empty if they are.

    Raises: CheckpointError if it is of another format.
    """
    try:
        info = read_info(folder)
        for file in files or info["sha256"]:
            _verify(folder, file, info)
    except Damaged as error:
        return error.what
    return ""


def _weights_of(folder: Path) -> str:
    """The SHA-256 of a checkpoint's average, as its state says; empty if that cannot be read."""
    try:
        return str(read_info(folder)["sha256"].get("ema", ""))
    except CheckpointError:
        return ""


def load_weights(run: Path | str, weights: str = "ema") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights of a RUN's newest whole checkpoint, and their lineage {weights: SHA-256, images_seen}.

    "ema" is the first average, "ema_50kimg" the one of that half-life, "model" what is not averaged; "best" is the
    first average of the checkpoint that `mark_best` named; a SHA-256 is the first average that has it, of whatever
    checkpoint was kept.

    Raises: CheckpointError if there is none; one that names the nearest for unknown weights.
    """
    damaged: dict[Path, str] = {}
    checkpoints, only = Path(run) / "checkpoints", ""
    if weights == "best":
        only = best_name(run)
    elif len(weights) == SHA256_DIGITS:
        only = next((saved.path.name for saved in kept(run) if saved.weights == weights), "none")
    file = "ema" if only or weights == "best" else weights
    found = None if weights == "best" and not only else _newest_whole(checkpoints, (file,), damaged, only)
    if found is None and weights == "best":
        what = f"no best checkpoint{_because(damaged)}"
        raise CheckpointError(what, where=str(run), mend="`fm evaluate RUN` names one; the newest is weights='ema'")
    if found is None:
        which = f" of weights {weights[:16]}" if only else ""
        mend = "evaluate again, which takes the newest" if only else "train first, with `fm train DATA RUN`"
        raise CheckpointError(f"no whole checkpoint{which}{_because(damaged)}", where=str(run), mend=mend)
    folder, info = found
    return load_file(_path(folder, file)), {"weights": info["sha256"][file], "images_seen": info["images_seen"]}


def read_file(saved: Saved, file: str) -> dict[str, Tensor]:
    """The tensors by name of one file of a checkpoint, whose SHA-256 is as its state says.

    Raises: CheckpointError if it is not, or there is no such file.
    """
    _verify(saved.path, file, read_info(saved.path))
    return load_file(_path(saved.path, file))


def _newest_whole(
    checkpoints: Path, files: tuple[str, ...], damaged: dict[Path, str], only: str = ""
) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint (or `only` that one) whose files, or the named ones, have their recorded SHA-256.

    Those passed over go into `damaged`.
    """
    for folder in _newest_first(checkpoints):
        if only and folder.name != only:
            continue
        try:
            info = read_info(folder)
            for file in files or info["sha256"]:
                _verify(folder, file, info)
        except Damaged as error:
            damaged[folder] = error.what
            continue
        return folder, info
    return None


def read_info(folder: Path) -> dict[str, Any]:
    """What a checkpoint's state.json says.

    Raises: Damaged if it cannot be read or does not fit its own digest, CheckpointError if it is of another format.
    """
    try:
        info = json.loads((folder / STATE).read_text())
    except (OSError, ValueError):
        raise Damaged(f"{folder.name}/{STATE} cannot be read", where=str(folder.parent)) from None
    if not isinstance(info, dict) or info.pop("check", None) != digest(info):
        raise Damaged(f"{folder.name}/{STATE} is damaged", where=str(folder.parent))
    if info["format"] != FORMAT:
        raise CheckpointError(f"{folder.name} has format {info['format']}, not {FORMAT}", where=str(folder.parent))
    return info


def _saved(folder: Path, info: dict[str, Any]) -> Saved:
    return Saved(info["images_seen"], info["seconds"], folder, info["sha256"]["ema"])


def _verify(folder: Path, file: str, info: dict[str, Any]) -> None:
    if file not in info["sha256"]:
        raise CheckpointError(f"no weights {file!r}", where=str(folder), mend=nearest(file, info["sha256"]))
    path = _path(folder, file)
    try:
        found = sha256(path)
    except OSError:
        raise Damaged(f"{folder.name}/{path.name} cannot be read", where=str(folder.parent)) from None
    if found != info["sha256"][file]:
        raise Damaged(f"{folder.name}/{path.name} is damaged", where=str(folder.parent))


def _path(folder: Path, file: str) -> Path:
    return folder / f"{file}.safetensors"


def _write(path: Path, tensors: dict[str, Tensor]) -> str:
    """Saves tensors by name and syncs them -> SHA-256."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # what the disk said, in a class of its own
        raise OSError(str(error)) from error
    _sync(path)
    return sha256(path)


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _set_aside(folder: Path) -> None:
    """Renames a damaged checkpoint, so that it is neither counted nor tried again; an older one so named gives way."""
    aside = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)


def _newest_first(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.name.isdigit()), reverse=True)


def _because(damaged: dict[Path, str]) -> str:
    return f" ({'; '.join(damaged.values())})" if damaged else ""

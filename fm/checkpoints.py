"""Checkpoints that are whole or absent: hashed safetensors in one folder each, under RUN/checkpoints/<images seen>.

Nothing that is executed on loading is ever written or read. The newest whole one is the only authority on where a run
stands; a damaged one is renamed, said aloud, and the one before it used.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fm.ema import Ema
from fm.errors import CheckpointError
from fm.files import sha256, sync_folder, writable_folder, write_json
from fm.optimizer import Adam

FORMAT = 1
STATE = "state.json"


class Damaged(CheckpointError):
    """A checkpoint whose files are not what its state.json says: the one before it is used."""


@dataclass
class State:
    """All that a training continues from."""

    model: nn.Module
    optimizer: Adam
    ema: Ema
    images_seen: int = 0
    seconds: float = 0.0  # of training, over all resumes
    tally: dict[str, float] = field(default_factory=dict)  # sums since the last report

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The live tensors, by file and name; restoring copies into them."""
        return {"model": self.model.state_dict(), "ema": self.ema.weights, "optimizer": self.optimizer.tensors()}

    def numbers(self) -> dict[str, Any]:
        return {"images_seen": self.images_seen, "seconds": self.seconds, "tally": self.tally}

    def set_numbers(self, numbers: dict[str, Any]) -> None:
        self.images_seen, self.seconds, self.tally = (numbers[name] for name in ("images_seen", "seconds", "tally"))


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is on the disk; `weights` is the SHA-256 of its EMA weights, the name of this model."""

    images_seen: int
    seconds: float
    path: Path
    weights: str


class Store:
    """The checkpoints of one RUN, bound to the digests of its recipe and data; keeps the newest `keep`."""

    def __init__(self, run: Path | str, recipe: str = "", data: str = "", keep: int = 3) -> None:
        self.folder = Path(run) / "checkpoints"
        self.identity = {"recipe": recipe, "data": data}
        self.keep = keep
        self.newest: Saved | None = None  # of those this store restored or saved
        self.restored = ""  # what restore_newest_good found, in one line for the user

    @property
    def images_seen(self) -> int:
        """Where a run stands that starts now: records past it are to be cut."""
        return self.newest.images_seen if self.newest else 0

    def save(self, state: State) -> Saved:
        """Writes the state under a temporary name, syncs it to the disk, then renames it; once for each place.

        Raises: CheckpointError if the disk is full or refuses.
        """
        if self.newest and self.newest.images_seen == state.images_seen:
            return self.newest
        target = self.folder / f"{state.images_seen:012d}"
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            writable_folder(part)
            hashes = {name: _write(part / f"{name}.safetensors", tensors) for name, tensors in state.tensors().items()}
            write_json(part / STATE, {"format": FORMAT, **state.numbers(), **self.identity, "sha256": hashes})
            shutil.rmtree(target, ignore_errors=True)
            os.rename(part, target)
            sync_folder(self.folder)
        except OSError as error:
            raise CheckpointError(
                f"cannot be written ({error.strerror or error})", where=str(target), mend="make room and start again"
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        for old in _newest_first(self.folder)[self.keep :]:
            shutil.rmtree(old, ignore_errors=True)
        self.newest = Saved(state.images_seen, state.seconds, target, hashes["ema"])
        return self.newest

    def restore_newest_good(self, state: State) -> None:
        """Copies the newest whole checkpoint into the state; says in `restored` which, and why not a newer one.

        Raises: CheckpointError if it belongs to another recipe, data set or network, or if all are damaged.
        """
        damaged = []
        for folder in _newest_first(self.folder):
            try:
                info, tensors = read_checkpoint(folder, ("model", "ema", "optimizer"))
            except Damaged as error:
                damaged.append(error.what)
                _set_aside(folder)
                continue
            self._check_identity(folder, info)
            _copy_into(state.tensors(), tensors, folder)
            state.set_numbers(info)
            self.newest = _saved(folder, info)
            self.restored = f"resumed at {state.images_seen:,} images" + _because(damaged)
            return
        if damaged:
            raise CheckpointError(
                f"no checkpoint is whole ({'; '.join(damaged)})", where=str(self.folder), mend="start in a new RUN"
            )
        self.restored = "started at 0 images"

    def _check_identity(self, folder: Path, info: dict[str, Any]) -> None:
        differ = [f"{key} {info[key]}, not {value}" for key, value in self.identity.items() if info[key] != value]
        if differ:
            raise CheckpointError(
                f"belongs to another run ({'; '.join(differ)})", where=str(folder), mend="choose another RUN"
            )


def newest(run: Path | str) -> Saved | None:
    """The newest checkpoint of a RUN whose files are as it says; None if there is none."""
    for folder in _newest_first(Path(run) / "checkpoints"):
        try:
            info = read_info(folder)
            for name in info["sha256"]:
                _verified(folder, name, info)
        except Damaged:
            continue
        return _saved(folder, info)
    return None


def load_weights(run: Path | str, weights: str = "ema") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights ("ema" or "model") of a RUN's newest whole checkpoint, and their lineage {weights: SHA-256, images_seen}.

    Raises: CheckpointError if there is none.
    """
    damaged = []
    for folder in _newest_first(Path(run) / "checkpoints"):
        try:
            info, tensors = read_checkpoint(folder, (weights,))
        except Damaged as error:
            damaged.append(error.what)
            continue
        return tensors[weights], {"weights": info["sha256"][weights], "images_seen": info["images_seen"]}
    raise CheckpointError(
        f"no whole checkpoint{_because(damaged)}", where=str(run), mend="train first, with `fm train DATA RUN`"
    )


def read_checkpoint(folder: Path, files: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """state.json and the named files' tensors of one checkpoint.

    Raises: Damaged if a file is missing or its SHA-256 is not the recorded one.
    """
    info = read_info(folder)
    return info, {name: load_file(_verified(folder, name, info)) for name in files}


def read_info(folder: Path) -> dict[str, Any]:
    """What a checkpoint's state.json says.

    Raises: Damaged if it cannot be read, CheckpointError if it is of another format.
    """
    try:
        info = json.loads((folder / STATE).read_text())
    except (OSError, ValueError):
        raise Damaged(f"{folder.name}/{STATE} cannot be read", where=str(folder.parent)) from None
    if info["format"] != FORMAT:
        raise CheckpointError(f"{folder.name} has format {info['format']}, not {FORMAT}", where=str(folder.parent))
    return info


def _saved(folder: Path, info: dict[str, Any]) -> Saved:
    return Saved(info["images_seen"], info["seconds"], folder, info["sha256"]["ema"])


def _verified(folder: Path, name: str, info: dict[str, Any]) -> Path:
    path = folder / f"{name}.safetensors"
    try:
        found = sha256(path)
    except OSError:
        raise Damaged(f"{folder.name}/{path.name} cannot be read", where=str(folder.parent)) from None
    if found != info["sha256"][name]:
        raise Damaged(f"{folder.name}/{path.name} is damaged", where=str(folder.parent))
    return path


def _write(path: Path, tensors: dict[str, Tensor]) -> str:
    """Saves tensors by name and syncs them -> SHA-256."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
    return sha256(path)


def _copy_into(live: dict[str, dict[str, Tensor]], stored: dict[str, dict[str, Tensor]], folder: Path) -> None:
    """Copies in place, after all names and shapes were compared: memory layout and devices stay as they are."""
    differ = list(_differences(live, stored))
    if differ:
        raise CheckpointError(f"is of another network ({'; '.join(differ[:3])})", where=str(folder))
    with torch.no_grad():
        for file, tensors in live.items():
            for name, tensor in tensors.items():
                tensor.copy_(stored[file][name])


def _differences(live: dict[str, dict[str, Tensor]], stored: dict[str, dict[str, Tensor]]) -> Iterator[str]:
    for file, tensors in live.items():
        for name in sorted(tensors.keys() | stored[file].keys()):
            shapes = [list(side[name].shape) if name in side else "absent" for side in (tensors, stored[file])]
            if shapes[0] != shapes[1]:
                yield f"{name} is {shapes[1]}, not {shapes[0]}"


def _set_aside(folder: Path) -> None:
    """Renames a damaged checkpoint, so that it is neither counted nor tried again; an older one so named gives way."""
    aside = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)


def _newest_first(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.name.isdigit()), reverse=True)


def _because(damaged: list[str]) -> str:
    return f" ({'; '.join(damaged)})" if damaged else ""

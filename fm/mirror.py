"""One side's copy of a RUN that lies at an address (`s3://bucket/runs/x`): what differs is sent or fetched.

Each file has one writer: the driver, the training's first worker, or a worker on each machine. What lies at the address
is the authority. A checkpoint there without state.json is none: that file is sent last and removed first. What a RUN is
to its users, and who has it when, is the business of `fm/runs.py`.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fm.data.addresses import node_cache, patiently, tag, unless_absent, unsigned
from fm.errors import UserError
from fm.files import SHA256_DIGITS, in_turn, sha256, writable_folder, write_json, write_text
from fm.lineage import digest

DRIVER, WORKER, MACHINE = "driver", "worker", "machine"  # who writes
LEAVE, STATE, BEST, INDEX = ".ray/leave", "state.json", "checkpoints/best.json", ".index.json"
ADDRESS = ".address"  # a file beside the copy: what that is a copy of
WHOLE = {"s3", "s3a", "gs", "gcs", "abfs", "az", "memory"}  # file systems in which what is put is whole or absent
OF_CHECKPOINT = re.compile(r"checkpoints/(\d+)/[^/]+$")

T = TypeVar("T")
Index = dict[str, list[Any]]  # name -> bytes and tag at the address, and mtime in ns here, when both were the same


def writer(name: str) -> str:
    """The side that writes this file of a RUN; nobody, if it is no part of what is kept at the address."""
    if name == LEAVE:
        return DRIVER
    if name.startswith((".ray/error-", "logs/", "records/system-")):
        return MACHINE
    if any(part.startswith(".") for part in name.split("/")):
        return ""
    if name.startswith("checkpoints/") and name != BEST:
        return WORKER if OF_CHECKPOINT.match(name) else ""  # one that was set aside stays where it was
    return WORKER if name.startswith(("records/", "samples/")) else DRIVER


class Mirror:
    """One side's copy of the RUN at an address, in this machine's cache; an index in it says what was the same.

    The index goes with the copy: what is missing from a copy that was lost was not removed.

    Methods raise UserError if the address cannot be read or written for longer than a moment.
    """

    def __init__(self, address: str, side: str, folder: Path | None = None) -> None:
        if unsigned(address) != address:
            what = "is signed, and a RUN is written to"
            raise UserError(what, unsigned(address), "give this machine the right to write there, and leave out '?...'")
        self.address, self.side = address.rstrip("/"), side
        self.place = node_cache() / "runs" / digest(self.address) / side
        name = self.address.partition("://")[2].rpartition("/")[2]
        if not name:
            raise UserError("names no RUN", address, "name one below it, e.g. s3://bucket/runs/mine")
        self.folder = folder or self.place / name

    def turn(self) -> AbstractContextManager[None]:
        """One process or thread at a time compares this copy with the address."""
        return in_turn(self.place)

    def pull(self, *sides: str, forget: bool = False) -> None:
        """Fetches what these sides wrote, of checkpoints no more than their state.json; what has gone there goes here.

        What this side itself wrote here last is kept. With `forget` what it never sent goes, if others have gone on.
        """
        with self._index() as index:
            there = self.there(*sides)
            mine = {name for name in {*index, *there} if writer(name) == self.side and not _is_payload(name)}
            moved_on = any(index.get(name, [])[:2] != there.get(name) for name in mine)
            for name in there:
                if not _is_payload(name) and writer(name) in sides:
                    self._bring(name, there[name], index, keep=writer(name) in (self.side, MACHINE))
            gone = [name for name in index if writer(name) in sides and name not in there]
            if forget and moved_on:
                gone += [name for name in self._here(self.side) if name not in there]
            for name in gone:
                (self.folder / name).unlink(missing_ok=True)
                index.pop(name, None)
            for name in [name for name in index if _is_payload(name) and writer(name) in sides]:
                if not (self.folder / name).exists():
                    del index[name]
            _drop_empty(self.folder / "checkpoints")

    def fetch_checkpoint(self, weights: str = "ema") -> None:
        """Fetches the newest checkpoint whose files are as its state.json says; with weights "best" that one, with a
        SHA-256 the one whose first average has it."""
        with self._index() as index:
            there = self.there(WORKER)
            found = sorted({name.split("/")[1] for name in there if name.endswith(f"/{STATE}")}, reverse=True)
            if weights == "best":  # what names none is for `fm.checkpoints` to say
                with suppress(OSError, ValueError, KeyError, TypeError):
                    found = [json.loads((self.folder / BEST).read_text())["checkpoint"]]
            elif len(weights) == SHA256_DIGITS:
                found = [number for number in found if _average(self.folder / "checkpoints" / number) == weights]
            for number in found:
                files = [name for name in there if name.startswith(f"checkpoints/{number}/")]
                for _ in range(2):  # once more, if what lies here is not what was written
                    for name in sorted(files, key=_order):
                        self._bring(name, there[name], index)
                    damaged = _damaged(self.folder / "checkpoints" / number)
                    if not damaged:
                        return
                    for name in damaged:
                        index.pop(f"checkpoints/{number}/{name}", None)

    def push(self, *sides: str) -> None:
        """Sends what these sides have written here, checkpoints last; removes there what was removed here.

        A checkpoint goes there when its state.json went here: of most a copy has no more than that.
        """
        with self._index() as index:
            here, torn = self._here(*sides), set()
            for name in sorted(here, key=_order):
                path = self.folder / name
                try:
                    stat = path.stat()
                    if (
                        index.get(name, [None, None])[::2] != [stat.st_size, stat.st_mtime_ns]
                        and path.parent not in torn
                    ):
                        index[name] = [*self.put(name), stat.st_mtime_ns]
                        self._note(index)  # one that is killed is not to take its own files for another's
                except FileNotFoundError:  # `keep` removed it meanwhile
                    torn.add(path.parent)
            for name in sorted(index, key=_order, reverse=True):
                whole = f"{name.rpartition('/')[0]}/{STATE}" if _is_payload(name) else name
                if writer(name) in sides and name not in here and whole not in here:
                    self.remove(name)
                    del index[name]

    def there(self, *sides: str) -> dict[str, list[Any]]:
        """The files at the address that these sides wrote: bytes, and a tag that changes with the content."""

        def listed(fs: Any, root: str) -> dict[str, list[Any]]:
            fs.invalidate_cache()
            found, folders = {}, [root]
            while folders:
                folder = folders.pop()
                for entry in unless_absent(partial(fs.ls, folder, detail=True)) or []:
                    name = entry["name"].rstrip("/")[len(root) + 1 :]
                    if entry["name"].rstrip("/") == folder.rstrip("/"):
                        continue  # object stores may hold an empty object of a folder's name
                    if entry["type"] == "directory":
                        if name.split("/")[0] in (".ray", "checkpoints", "records") or writer(f"{name}/") in sides:
                            folders.append(entry["name"])
                    elif writer(name) in sides:
                        found[name] = [int(entry["size"]), tag(entry)]
            return found

        return self.ask(listed)

    def read(self, name: str) -> bytes | None:
        """What is in a file at the address, or None if it is not there."""
        return self.ask(lambda fs, root: unless_absent(lambda: fs.cat_file(f"{root}/{name}")))

    def remove(self, name: str) -> None:
        """Removes a file at the address; with its state.json all of a checkpoint."""

        def removed(fs: Any, root: str) -> None:
            unless_absent(lambda: fs.rm_file(f"{root}/{name}"))
            if OF_CHECKPOINT.match(name) and name.endswith(f"/{STATE}"):
                fs.invalidate_cache()
                unless_absent(lambda: fs.rm(f"{root}/{name.rpartition('/')[0]}", recursive=True))

        self.ask(removed, "written")

    def unsent(self) -> list[str]:
        """The files of this copy that the address has not, or not as they are here; what never goes there included."""
        there, index = self.there(DRIVER, WORKER, MACHINE), self._noted()

        def same(path: Path, name: str) -> bool:
            stat, known = path.lstat(), index.get(name)
            now = [stat.st_size, stat.st_mtime_ns]
            return known is not None and known[:2] == there.get(name) and known[::2] == now

        files = [path for path in self.folder.rglob("*") if path.is_symlink() or not path.is_dir()]
        named = {path.relative_to(self.folder).as_posix(): path for path in sorted(files)}
        return [name for name, path in named.items() if name not in (INDEX, ".lock") and not same(path, name)]

    def ask(self, question: Callable[[Any, str], T], done: str = "read") -> T:
        """question(file system, path of RUN in it), as patient as `fm.data.addresses.patiently` and with its errors."""
        import fsspec

        return patiently(lambda: question(*fsspec.core.url_to_fs(self.address)), self.address, done)

    def put(self, name: str) -> list[Any]:
        """Sends a file of the copy, whole or not at all -> its bytes and tag there."""
        local = self.folder / name

        def put(fs: Any, root: str) -> list[Any] | None:
            if not local.exists():
                return None
            target = f"{root}/{name}"
            if WHOLE & ({fs.protocol} if isinstance(fs.protocol, str) else {*fs.protocol}):
                fs.put_file(str(local), target)
            else:
                folder, _, last = target.rpartition("/")
                fs.makedirs(folder, exist_ok=True)
                fs.put_file(str(local), f"{folder}/.{last}.part")
                fs.mv(f"{folder}/.{last}.part", target)
            fs.invalidate_cache()
            details = fs.info(target)
            return [int(details["size"]), tag(details)]

        sent = self.ask(put, "written")
        if sent is None:
            raise FileNotFoundError(local)
        return sent

    def _bring(self, name: str, word: list[Any], index: Index, keep: bool = False) -> None:
        """Fetches a file unless both are as they were when they were the same; `keep`: or if it changed here alone."""
        path, known = self.folder / name, index.get(name)
        here = [path.stat().st_size, path.stat().st_mtime_ns] if path.exists() else None
        if known and known[:2] == word and here and (keep or here == known[::2]):
            return
        part = writable_folder(path.parent) / f".{path.name}.part"

        def fetch(fs: Any, root: str) -> bool:
            part.unlink(missing_ok=True)
            unless_absent(lambda: fs.get_file(f"{root}/{name}", str(part)))
            return part.exists()

        if self.ask(fetch):  # else it went while it was asked for
            os.replace(part, path)
            index[name] = [*word, path.stat().st_mtime_ns]

    def _here(self, *sides: str) -> set[str]:
        """The files of the copy that these sides write."""
        found = (path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())
        return {name for name in found if writer(name) in sides}

    @contextmanager
    def _index(self) -> Iterator[Index]:
        writable_folder(self.folder)
        if not (self.place / ADDRESS).exists():
            write_text(self.place / ADDRESS, self.address)
        index = self._noted()
        try:
            yield index
        finally:
            if index != self._noted():
                self._note(index)

    def _noted(self) -> Index:
        file = self.folder / INDEX
        return json.loads(file.read_text()) if file.exists() else {}

    def _note(self, index: Index) -> None:
        if self.folder.exists():  # else it was lost meanwhile
            write_json(self.folder / INDEX, index)


def publish(folder: Path, address: str) -> None:
    """Sends a data set that is finished in the folder, unless it is there; its manifest comes last."""
    there, manifest = Mirror(address, DRIVER, folder), folder / "manifest.json"
    if there.read(manifest.name) == manifest.read_bytes():
        return
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    for path in sorted(files, key=lambda path: (path == manifest, path)):
        there.put(path.relative_to(folder).as_posix())


def _is_payload(name: str) -> bool:
    return bool(OF_CHECKPOINT.match(name)) and not name.endswith(f"/{STATE}")


def _order(name: str) -> tuple[Any, ...]:
    """Records before checkpoints, of these the newest first, and each one's state.json last."""
    found = OF_CHECKPOINT.match(name)
    return bool(found), -int(found[1]) if found else 0, name.endswith(f"/{STATE}"), name


def _average(checkpoint: Path) -> str:
    """The SHA-256 of a checkpoint's first average, as its state.json says; empty if that cannot be read."""
    try:
        return str(json.loads((checkpoint / STATE).read_text())["sha256"]["ema"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _damaged(checkpoint: Path) -> list[str]:
    """The files of a checkpoint that are not what its state.json says."""
    try:
        info = json.loads((checkpoint / STATE).read_text())
        check, hashes = info.pop("check"), info["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [STATE]
    if check != digest(info):  # as `fm.checkpoints` finds it
        return [STATE]
    files = {f"{name}.safetensors": due for name, due in hashes.items()}
    return [name for name, due in files.items() if not (checkpoint / name).exists() or sha256(checkpoint / name) != due]


def _drop_empty(checkpoints: Path) -> None:
    for folder in checkpoints.glob("[0-9]*"):
        if not any(folder.iterdir()):
            folder.rmdir()

"""Files that are whole or absent: temporary name, fsync, rename; storage that goes away for a moment; SHA-256."""

import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from fm.errors import SettingsError, UserError

SHA256_DIGITS = 64
BUFFER_BYTES = 1024**2  # written at once: a shard is many small writes
PAUSES_S = (1, 2, 4, 8, 16)  # before a write that failed is tried again

T = TypeVar("T")


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Makes renames inside a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def patiently(write: Callable[[], T], what: str, where: Path, kind: type[UserError] = UserError) -> T:
    """write(), tried again for half a minute: network storage goes away for seconds, and no run should end for that.

    Raises: `kind`, which says that `what` cannot be written, if the storage still refuses.
    """
    for pause_s in PAUSES_S:
        try:
            return write()
        except OSError:
            time.sleep(pause_s)
    try:
        return write()
    except OSError as error:
        raise kind(
            f"{what} cannot be written ({error.strerror or error})",
            where=str(where),
            mend="make room or mend the storage, and start again",
        ) from error


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes its name only when the block ends without an error."""
    writable_folder(path.parent)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb", buffering=BUFFER_BYTES) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises: UserError if the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError("no such file", where=str(path)) from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read as JSON ({error})", where=str(path)) from None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else of this kind works in the folder during the block; a process that dies lets go.

    Raises: UserError if somebody does.
    """
    with open(writable_folder(folder) / ".lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("another run is at work here", str(folder), "wait for its end or choose another") from None
        yield


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """One process of this machine at a time works in the folder during the block; the others wait."""
    with open(writable_folder(folder) / ".lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check_name(name: str, of: str) -> None:
    """Raises: SettingsError for a name that is not one everywhere: of a file, in an address, in a query."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", name):
        what = f"{name!r} is no name of {of}"
        raise SettingsError(what, mend="take letters, digits, '.', '-' and '_', a letter or digit first")


def mapped() -> set[Path]:
    """The files that processes of this machine have mapped into memory, as far as it (Linux alone) tells this user."""
    found: set[Path] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # another user's, or gone meanwhile
            lines = maps.read_text(errors="replace").splitlines()
            found |= {Path(words[5]) for line in lines if len(words := line.split(maxsplit=5)) == 6}
    return found


def check_file(path: Path) -> None:
    """Raises: UserError if there is no file to read at this path."""
    if not path.is_file():
        raise UserError("is a folder" if path.is_dir() else "no such file", str(path), "name a file")
    if not os.access(path, os.R_OK):
        raise UserError("no permission to read", str(path))


def writable_folder(folder: Path) -> Path:
    """The folder, made if absent.

    Raises: UserError if it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make this folder ({error.strerror})", where=str(folder), mend="choose a folder you may write"
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError("no write permission", where=str(folder), mend="choose a folder you may write")
    return folder


def check_writable(folder: Path) -> None:
    """Makes nothing.

    Raises: UserError if this folder could not be made, or not be written.
    """
    whole = folder.resolve()
    if any(len(os.fsencode(part)) > 255 for part in whole.parts):
        raise UserError("a name in this path is too long", str(folder), "use names of at most 255 bytes")
    there = next(parent for parent in [whole, *whole.parents] if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError("no folder can be made or written here", str(folder), "choose a folder you may write")

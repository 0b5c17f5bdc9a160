"""Files at any address that fsspec knows (`s3://bucket/data`, `memory://data`, `file:///data`), read in pieces."""

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from fm.errors import DataError, MachineError, nearest
from fm.files import PAUSES_S

PIECE_BYTES = 8 * 1024**2
MOMENTARY = (408, 429)  # of a server's answers from 400 to 499, which else stay as they are

T = TypeVar("T")


def is_address(root: str | Path) -> bool:
    return "://" in str(root)


def unsigned(path: str) -> str:
    """A path, or an address without its query: that may be a signature, which is for no file, key or message."""
    return path.partition("?")[0] if is_address(path) else path


def settled(root: str | Path) -> str:
    """The folder or address as every process finds it, whatever its working folder."""
    return str(root) if is_address(root) else str(Path(root).resolve())


def node_cache() -> Path:
    """This machine's folder for what lies at an address: FM_CACHE, or `flow-matching` where caches are kept."""
    own = os.environ.get("FM_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "flow-matching"


def read_pieces(address: str) -> Iterator[bytes]:
    """The bytes of the file at an address, a piece at a time; goes on where it was for half a minute of failures.

    Raises: DataError if it is not there; MachineError if it still cannot be read.
    """
    import fsspec

    wait, done = _waits(address), 0
    while True:
        try:
            with fsspec.open(address, "rb") as file:
                if done:
                    file.seek(done)
                while piece := file.read(PIECE_BYTES):
                    done += len(piece)
                    yield piece
                return
        except Exception as error:
            wait(error)


def patiently(ask: Callable[[], T], address: str, done: str = "read") -> T:
    """ask(), which reads or writes (`done`: read, written) at the address, tried again for half a minute of failures.

    Raises: DataError if that is not there or refused; MachineError if it still fails.
    """
    wait = _waits(address, done)
    while True:
        try:
            return ask()
        except Exception as error:
            wait(error)


def _waits(address: str, done: str = "read") -> Callable[[Exception], None]:
    """What is to be called with each failure: it waits, or raises what there is to say."""
    pauses = iter(PAUSES_S)

    def wait(raised: Exception) -> None:
        error = behind(raised)
        lasting = isinstance(error, FileNotFoundError | ImportError | ValueError) or _is_refusal(error)
        pause_s = None if lasting else next(pauses, None)
        if pause_s is None:
            raise unreadable(error, address, done) from None
        time.sleep(pause_s)

    return wait


def unreadable(error: Exception, where: str, done: str = "read") -> DataError:
    """What to raise for an error that a file system raised: each has its own for network, permission, protocol."""
    import fsspec

    error, where, far = behind(error), unsigned(where), is_address(where)
    if isinstance(error, FileNotFoundError):
        return DataError("no such file" if done == "read" else f"cannot be {done} (no such bucket or folder)", where)
    if isinstance(error, ImportError):  # fsspec names the package that is missing
        return DataError(f"cannot be {done} ({error})", where)
    if isinstance(error, OSError) and not far:
        return MachineError(f"cannot be {done} ({error.strerror or error})", where)
    protocol, known = where.partition("://")[0].rpartition("::")[2], fsspec.available_protocols()
    if far and protocol not in known:
        return DataError(f"cannot be {done} (fsspec knows no {protocol}://)", where, nearest(protocol, known))
    right = "write" if done == "written" else "read"
    says = f"{type(error).__name__}: {error}"
    says = re.sub(r"(://[^\s?]*)\?[^\s']*", r"\1", says)  # addresses without their queries
    if _is_refusal(error):
        return DataError(f"is refused ({says})", where, f"give this machine the right to {right} it, or sign it anew")
    mend = f"give this machine the right to {right} there" if type(error).__name__ == "NoCredentialsError" else ""
    return MachineError(f"cannot be {done} ({says})", where, mend)


def tag(details: dict[str, Any]) -> str:
    """Of what a file system tells of a file: a word that changes with its content."""
    keys = ("ETag", "etag", "md5Hash", "LastModified", "mtime")
    return str(next((details[key] for key in keys if key in details), ""))


def unless_absent(ask: Callable[[], T]) -> T | None:
    """ask(), or None if what it asks for is not there."""
    try:
        return ask()
    except Exception as error:
        if isinstance(behind(error), FileNotFoundError):
            return None
        raise


def _is_refusal(error: Exception) -> bool:
    """Whether a server will answer the same the next time."""
    status = getattr(error, "status", 500)
    return isinstance(error, PermissionError) or (400 <= status < 500 and status not in MOMENTARY)


def behind(error: Exception) -> Exception:
    """What a file system means by "not found": fsspec says so of a server that cannot be reached or fails, too."""
    cause = error.__cause__
    of_network = isinstance(cause, OSError) or type(cause).__module__.startswith("aiohttp")
    away = of_network and getattr(cause, "status", 500) != 404
    return behind(cause) if isinstance(error, FileNotFoundError) and isinstance(cause, Exception) and away else error

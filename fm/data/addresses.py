"""Files at any address that fsspec knows (`s3://bucket/data`, `memory://data`, `file:///data`), read in pieces."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from fm.errors import DataError, MachineError
from fm.files import PAUSES_S

PIECE_BYTES = 8 * 1024**2


def is_address(root: str | Path) -> bool:
    return "://" in str(root)


def settled(root: str | Path) -> str:
    """The folder or address as every process finds it, whatever its working folder."""
    return str(root) if is_address(root) else str(Path(root).resolve())


def node_cache() -> Path:
    """This machine's folder for what lies at an address: FM_CACHE, or `flow-matching` where caches are kept."""
    own = os.environ.get("FM_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "flow-matching"


def read_pieces(address: str) -> Iterator[bytes]:
    """The bytes of the file at an address, a piece at a time; goes on where it was for half a minute of failures.

    Raises: DataError if it is not there or still cannot be read.
    """
    import fsspec

    pauses, done = iter(PAUSES_S), 0
    while True:
        try:
            with fsspec.open(address, "rb") as file:
                if done:
                    file.seek(done)
                while piece := file.read(PIECE_BYTES):
                    done += len(piece)
                    yield piece
                return
        except Exception as raised:
            error = _behind(raised)
        lasting = isinstance(error, FileNotFoundError | ImportError | ValueError | PermissionError)
        pause_s = None if lasting else next(pauses, None)
        if pause_s is None:
            raise unreadable(error, address)
        time.sleep(pause_s)


def unreadable(error: Exception, where: str) -> DataError:
    """What to raise for an error that a file system raised: each has its own for network, permission, protocol."""
    error = _behind(error)
    if isinstance(error, FileNotFoundError):
        return DataError("no such file", where=where)
    if isinstance(error, ImportError):  # fsspec names the package that is missing
        return DataError(f"cannot be read ({error})", where=where)
    if isinstance(error, OSError) and not is_address(where):
        return MachineError(f"cannot be read ({error.strerror or error})", where=where)
    return MachineError(f"cannot be read ({type(error).__name__}: {error})", where=where)


def _behind(error: Exception) -> Exception:
    """What a file system means by "not found": fsspec says so of a server that cannot be reached or fails, too."""
    cause = error.__cause__
    away = isinstance(cause, OSError) or getattr(cause, "status", 404) != 404
    return _behind(cause) if isinstance(error, FileNotFoundError) and isinstance(cause, Exception) and away else error

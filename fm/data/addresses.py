"""Files at any address that fsspec knows (`s3://bucket/data`, `memory://data`, `file:///data`), read in pieces."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from fm.errors import DataError
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
        except Exception as raised:  # each file system raises its own: network, permission, an unknown protocol
            error = _behind(raised)
        if isinstance(error, FileNotFoundError):
            raise DataError("no such file", where=address)
        if isinstance(error, ImportError):  # fsspec names the package that is missing
            raise DataError(f"cannot be read ({error})", where=address)
        pause_s = None if isinstance(error, ValueError | PermissionError) else next(pauses, None)
        if pause_s is None:
            raise DataError(f"cannot be read ({type(error).__name__}: {error})", where=address)
        time.sleep(pause_s)


def _behind(error: Exception) -> Exception:
    """What a file system means by "not found": fsspec says so of a server that cannot be reached, too."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not isinstance(cause, Exception):
        return error
    return error if getattr(cause, "status", None) == 404 else _behind(cause)

"""Files at any address that fsspec knows (`s3://bucket/data`, `memory://data`, `file:///data`), read in pieces."""

import os
from collections.abc import Iterator
from pathlib import Path

from fm.errors import DataError

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
    """The bytes of the file at an address, a piece at a time.

    Raises: DataError if it is not there or cannot be read.
    """
    import fsspec

    try:
        with fsspec.open(address, "rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece
    except FileNotFoundError:
        raise DataError("no such file", where=address) from None
    except ImportError as error:  # fsspec names the package that is missing
        raise DataError(f"cannot be read ({error})", where=address) from None
    except Exception as error:  # each file system raises its own: network, permission, an unknown protocol
        raise DataError(f"cannot be read ({type(error).__name__}: {error})", where=address) from None

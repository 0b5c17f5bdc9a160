"""Files at any address that fsspec knows (`s3://bucket/data`, `memory://data`, `file:///data`), read in pieces."""

from collections.abc import Iterator
from pathlib import Path

from fm.errors import DataError

PIECE_BYTES = 8 * 1024**2


def is_address(root: str | Path) -> bool:
    return "://" in str(root)


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

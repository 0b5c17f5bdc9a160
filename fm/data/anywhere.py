"""Files by path or at any address that fsspec knows (`s3://`, `gs://`, `https://`): found, opened, read in ranges.

A file that cannot be read is an error here, never a rejected picture: a network that is away thins out no data set.
"""

import glob
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fm.data.addresses import is_address, unreadable
from fm.errors import DataError

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")  # WebDataset's `shard-{000000..000146}.tar`
AHEAD_BYTES = 1024**2  # read at once at an address: the headers of many small members, or little beside a large one


def expand(pattern: str) -> list[str]:
    """`x-{08..11}` as x-08, x-09, x-10, x-11; a pattern without braces as itself."""
    found = RANGE.search(pattern)
    if not found:
        return [pattern]
    first, last = found.groups()
    numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    return [one for n in numbers for one in expand(pattern[: found.start()] + n + pattern[found.end() :])]


def find(pattern: str) -> list[str]:
    """The files that a path, an address or a glob of either names, sorted, as absolute paths or full addresses."""
    if not is_address(pattern):
        found = glob.glob(os.path.expanduser(pattern), recursive=True)
        return sorted(os.path.realpath(path) for path in found if os.path.isfile(path))
    fs, path = _file_system(pattern)
    with _said(pattern):
        if glob.has_magic(path):
            paths = sorted(path for path in fs.glob(path) if fs.isfile(path))
        else:
            paths = [path] if fs.isfile(path) else []
    return [fs.unstrip_protocol(path) for path in paths]


def stamp(path: str) -> tuple[int, str]:
    """(bytes, a word that changes with the content: time or tag).

    Raises: DataError if it is not there.
    """
    with _said(path):
        if not is_address(path):
            info = os.stat(path)
            return info.st_size, str(info.st_mtime_ns)
        fs, inner = _file_system(path)
        details = fs.info(inner)
    tag = next((details[key] for key in ("ETag", "etag", "md5Hash", "LastModified", "mtime") if key in details), "")
    return int(details["size"] or 0), str(tag)


@contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """The file, open to read and seek.

    Raises: DataError if it is not there, or cannot be read during the block.
    """
    with _said(path):
        if is_address(path):
            fs, inner = _file_system(path)
            file = fs.open(inner, "rb", block_size=AHEAD_BYTES)
        else:
            file = open(path, "rb")  # noqa: SIM115
        with file:
            yield file


def read_range(path: str, offset: int, length: int) -> bytes:
    """`length` bytes from `offset`.

    Raises: DataError if they cannot be read or are not there.
    """
    with _said(path):
        if is_address(path):
            fs, inner = _file_system(path)
            data = fs.cat_file(inner, start=offset, end=offset + length) if length else b""
        else:
            handle = os.open(path, os.O_RDONLY)  # half the time of a file object
            try:
                data = os.pread(handle, length, offset)
            finally:
                os.close(handle)
    if len(data) != length:
        raise DataError("changed while it was read", where=path, mend="run it again")
    return data


def _file_system(address: str) -> tuple[Any, str]:
    import fsspec

    with _said(address):
        return fsspec.core.url_to_fs(address)


@contextmanager
def _said(path: str | Path) -> Iterator[None]:
    """Whatever goes wrong with the file in the block, in one sentence."""
    try:
        yield
    except Exception as error:
        ours = type(error).__module__.startswith("fm.")
        if ours or not (is_address(path) or isinstance(error, OSError)):
            raise
        raise unreadable(error, str(path)) from None

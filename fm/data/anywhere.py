"""Files by path or at any address that fsspec knows (`s3://`, `gs://`, `https://`): found, opened, read in ranges.

A file that cannot be read is an error here, never a rejected picture: a network that is away thins out no data set.
What fails at an address is tried again for half a minute first.
"""

import glob
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, Any, TypeVar

from fm.data.addresses import is_address, patiently, tag, unless_absent, unreadable, unsigned
from fm.errors import DataError

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")  # WebDataset's `shard-{000000..000146}.tar`
AHEAD_BYTES = 1024**2  # read at once at an address: the headers of many small members, or little beside a large one

T = TypeVar("T")


def expand(pattern: str) -> list[str]:
    """`x-{08..11}` as x-08, x-09, x-10, x-11; a pattern without braces as itself."""
    found = RANGE.search(pattern)
    if not found:
        return [pattern]
    first, last = found.groups()
    numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    return [one for n in numbers for one in expand(pattern[: found.start()] + n + pattern[found.end() :])]


def find(pattern: str) -> list[str]:
    """The files that a path, an address or a glob of either names, sorted, as absolute paths or full addresses.

    Raises: MachineError if an address cannot be reached, DataError if it is refused: neither says what is there.
    """
    if not is_address(pattern):
        found = glob.glob(os.path.expanduser(pattern), recursive=True)
        return sorted(os.path.realpath(path) for path in found if os.path.isfile(path))
    return _ask(pattern, _found)


def is_file(path: str) -> bool:
    """Whether there is a file of this very name; errors as `find` raises them."""
    return bool(_ask(path, _found_file)) if is_address(path) else os.path.isfile(path)


def stamp(path: str) -> tuple[int, str]:
    """(bytes, a word that changes with the content: time or tag).

    Raises: DataError if it is not there.
    """
    if not is_address(path):
        with _said(path):
            info = os.stat(path)
        return info.st_size, str(info.st_mtime_ns)
    details = _ask(path, lambda fs, inner: fs.info(inner))
    return int(details["size"] or 0), tag(details)


@contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """The file, open to read and seek.

    Raises: DataError if it is not there, or cannot be read during the block.
    """
    with _said(path), io.BufferedReader(_Far(path)) if is_address(path) else open(path, "rb") as file:
        yield file


def read_range(path: str, offset: int, length: int) -> bytes:
    """`length` bytes from `offset`.

    Raises: DataError if they cannot be read or are not there.
    """
    if is_address(path):
        data = _ask(path, lambda fs, inner: fs.cat_file(inner, start=offset, end=offset + length)) if length else b""
    else:
        with _said(path):
            handle = os.open(path, os.O_RDONLY)  # half the time of a file object
            try:
                data = os.pread(handle, length, offset)
            finally:
                os.close(handle)
    if len(data) != length:
        raise DataError("changed while it was read", where=unsigned(path), mend="run it again")
    return data


class _Far(io.RawIOBase):
    """The file at an address; each read is as patient as any other question."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.file = _ask(address, lambda fs, inner: fs.open(inner, "rb", block_size=AHEAD_BYTES))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readinto(self, buffer: Any) -> int:
        position = self.file.tell()

        def read() -> bytes:
            self.file.seek(position)
            return self.file.read(len(buffer))

        data = patiently(read, self.address)
        buffer[: len(data)] = data
        return len(data)


def _ask(address: str, question: Callable[[Any, str], T]) -> T:
    """question(file system, path in it), as patient as `patiently` and with its errors."""
    import fsspec

    return patiently(lambda: question(*fsspec.core.url_to_fs(address)), address)


def _found(fs: Any, path: str) -> list[str]:
    paths = sorted(_matching(fs, path)) if glob.has_magic(unsigned(path)) else _found_file(fs, path)
    return [fs.unstrip_protocol(path) for path in paths]


def _found_file(fs: Any, path: str) -> list[str]:
    """The path if it is a file's; fsspec's `isfile` takes a server that is away for "no"."""
    info = unless_absent(lambda: fs.info(path))
    return [path] if info and info["type"] == "file" else []


def _matching(fs: Any, pattern: str) -> Iterator[str]:
    """The files of a glob; fsspec's own takes a folder that cannot be listed for an empty one."""
    from fsspec.utils import glob_translate

    matches = re.compile(glob_translate(pattern)).match
    folders = [re.split(r"[*?[]", pattern)[0].rpartition("/")[0] + "/"]
    while folders:
        folder = folders.pop()
        for entry in unless_absent(partial(fs.ls, folder, detail=True)) or []:
            name = entry["name"].rstrip("/")
            if entry["type"] == "file" and matches(name):
                yield name
            deeper = "**" in pattern or name.count("/") < pattern.count("/")
            if entry["type"] == "directory" and deeper and name != folder.rstrip("/"):
                folders.append(entry["name"])


@contextmanager
def _said(path: str) -> Iterator[None]:
    """What the operating system says against the file in the block, in one sentence."""
    try:
        yield
    except OSError as error:
        raise unreadable(error, path) from None

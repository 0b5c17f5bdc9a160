"""The official downsampled ImageNet: `train_data_batch_1.npz` to `_10`, `val_data.npz`, and `map_clsloc.txt`, which
says what their numbers mean; or a pickle in place of each npz. A folder of them or one file, read a row at a time.

A batch that is compressed or pickled cannot be read so: it is unpacked once on each machine (`fm.data.unpacked`).
"""

import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from fm.data.anywhere import read_range, stamp
from fm.data.rows import NpyHeader, npy_header, numbers_of, picture, side_of
from fm.data.sources import Item, Listing, Source, files_digest, options, readable, splits_of, stamps
from fm.data.unpacked import unpacked
from fm.data.unpickling import unpickle
from fm.data.wnids import CLSLOC, by_number
from fm.errors import DataError
from fm.lineage import digest

SCHEME = "npz"
BATCH = re.compile(r"(train_data(_batch_\d+)?|val_data)(\.npz)?")
TEN = {f"train_data_batch_{number}" for number in range(1, 11)}
MAX_LABELS_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class Batches(Source):
    """Rows of the arrays `data` (n, 3 s s) uint8, plane by plane, and `labels` (n,); an item's `at` is (file, row).

    names: the file that names the labels, None for numbers as they stand.
    """

    uri: str
    paths: tuple[str, ...]
    names: str | None

    def read(self, item: Item) -> bytes:
        number, row = item.at
        path = self.paths[number]
        rows = _rows(path, stamp(path))
        length = 3 * rows.side**2
        return picture(read_range(rows.file, rows.first + row * length, length))

    def digest(self) -> str:
        return digest(SCHEME, stamps(self.paths), sorted(by_number(Path(self.names)).items()) if self.names else None)

    def digest_of(self, items: Listing) -> str:
        return files_digest(self.paths, items)

    def expected(self) -> dict[str, int]:
        stems = {Path(path).stem for path in self.paths}
        return ({"train": 1_281_167} if stems >= TEN else {}) | ({"test": 50_000} if "val_data" in stems else {})

    def found(self) -> Iterator[Item]:
        names = by_number(Path(self.names)) if self.names else None
        splits = splits_of({_first_word(path) for path in self.paths})
        for number, path in enumerate(self.paths):
            stem, split = readable(Path(path).stem), splits.get(_first_word(path))
            for row, label in enumerate(_labels(path)):
                name = f"{label:04d}" if names is None else names.get(label)
                if name is None:
                    raise DataError(f"label {label} is not in {self.names}", where=readable(path))
                yield Item(f"{stem}/{row:07d}", name, split, at=(number, row))


def _first_word(path: str) -> str:
    return Path(path).stem.partition("_")[0]


@dataclass(frozen=True)
class Rows:
    """Where the rows of a batch lie: uncompressed in `file`, one behind the other from byte `first`."""

    file: str
    first: int
    count: int
    side: int


@lru_cache(maxsize=64)
def _rows(path: str, stamped: tuple[int, str]) -> Rows:
    file, start = path, 0
    with _said(path):
        if not path.endswith(".npz"):
            file = str(unpacked(path, lambda out: np.save(out, _pickled(path)["data"])))
        else:
            with zipfile.ZipFile(path) as archive:
                if archive.getinfo("data.npy").compress_type == zipfile.ZIP_STORED:
                    start = _start(path, archive.getinfo("data.npy"))
                else:
                    file = str(unpacked(path, lambda out: _extract(path, out)))
        with open(file, "rb") as opened:
            opened.seek(start)
            header = _header(opened)
            first = opened.tell()
    side = side_of(header.shape, header.dtype, path)
    if first + header.bytes > os.path.getsize(file):
        raise DataError(f"ends before its {header.shape[0]:,} rows", where=path, mend="fetch it again")
    return Rows(file, first, header.shape[0], side)


def _labels(path: str) -> list[int]:
    with _said(path):
        if not path.endswith(".npz"):
            content = _pickled(path)
            return numbers_of(content.get("labels"), len(content["data"]), path)
        with zipfile.ZipFile(path) as archive, archive.open("labels.npy") as file:
            if archive.getinfo("labels.npy").file_size > MAX_LABELS_BYTES:
                raise DataError("more labels than pictures", where=path)
            labels = np.lib.format.read_array(file, allow_pickle=False)
    return numbers_of(labels, _rows(path, stamp(path)).count, path)


def _pickled(path: str) -> dict[str, Any]:
    """The arrays of a pickled batch, its data checked."""
    content = unpickle(Path(path).read_bytes(), path)
    data = content.get("data")
    side_of(getattr(data, "shape", ()), getattr(data, "dtype", type(data).__name__), path)
    return content


def _start(path: str, info: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes begin: behind its own header, which may be longer than the directory says."""
    header = read_range(path, info.header_offset, 30)
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return info.header_offset + 30 + lengths


def _extract(path: str, out: BinaryIO) -> None:
    """Raises: DataError for more bytes than its rows, before any is unpacked: a little file can hold a disk full."""
    with zipfile.ZipFile(path) as archive, archive.open("data.npy") as file:
        header = _header(file)
        side_of(header.shape, header.dtype, path)
        if file.tell() + header.bytes != archive.getinfo("data.npy").file_size:
            raise DataError(f"does not hold the {header.shape[0]:,} rows that it says", path, "fetch it again")
        file.seek(0)
        while piece := file.read(2**20):
            out.write(piece)


def _header(file: IO[bytes]) -> NpyHeader:
    """The header that begins here, of rows one behind the other."""
    header = npy_header(file)
    if header.columns_first:
        raise ValueError("columns first")
    return header


@contextmanager
def _said(path: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", where=path) from None
    except Exception as error:  # zipfile, zlib and numpy raise many things on damaged bytes
        says = f"is not a whole .npz of the arrays data and labels ({error or type(error).__name__})"
        raise DataError(says, where=path, mend="fetch it again") from None


def _find(rest: str) -> list[str]:
    path = os.path.expanduser(rest)
    if os.path.isdir(path):
        found = [os.path.join(path, name) for name in os.listdir(path) if BATCH.fullmatch(name)]
        return sorted(os.path.realpath(file) for file in found if os.path.isfile(file))
    return [os.path.realpath(path)] if os.path.isfile(path) else []


def fits(path: str) -> bool:
    name = os.path.basename(path)
    return (os.path.isdir(path) or name.endswith(".npz") or bool(BATCH.fullmatch(name))) and bool(_find(path))


def open_uri(rest: str) -> Batches:
    where, chosen = options(rest, SCHEME, ("names",))
    paths = _find(where)
    if not paths:
        raise DataError("no train_data_batch_1.npz or the like there", where=where)
    names = chosen.get("names", os.path.join(os.path.dirname(paths[0]), CLSLOC))
    if "names" not in chosen and not os.path.isfile(names):
        says = f"its labels are numbers of {CLSLOC}, which is not beside it"
        raise DataError(says, where, f"put it there, or write `npz:{where}?names=none` for numbers as names")
    uri = f"{SCHEME}:{rest}" if chosen else rest
    return Batches(readable(uri), tuple(paths), names=None if names == "none" else os.path.expanduser(names))

"""CIFAR-10 as it is downloaded: `cifar-10-binary.tar.gz` or `cifar-10-python.tar.gz`, unpacked in memory (184 MB)."""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm.data.anywhere import stamp
from fm.data.rows import numbers_of, picture, side_of
from fm.data.sources import Item, Source, readable
from fm.data.unpickling import unpickle
from fm.errors import DataError
from fm.lineage import digest

SCHEME = "cifar10"
ARCHIVES = ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz")
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
ROW_BYTES = 3 * 32**2
MAX_BATCH_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class Cifar10(Source):
    """Five batches are the split train, the last is test; an item's `at` is (batch, row)."""

    uri: str
    path: str

    def read(self, item: Item) -> bytes:
        batch, row = item.at
        return picture(_unpacked(self.path, stamp(self.path)).data[batch][row])

    def digest(self) -> str:
        return digest(SCHEME, readable(os.path.basename(self.path)), *stamp(self.path))

    def expected(self) -> dict[str, int]:
        return {"train": 50_000, "test": 10_000}

    def found(self) -> Iterator[Item]:
        whole = _unpacked(self.path, stamp(self.path))
        for batch, labels in enumerate(whole.labels):
            split = "test" if BATCHES[batch].startswith("test") else "train"
            for row, label in enumerate(labels):
                if not 0 <= label < len(whole.names):
                    raise DataError(f"{BATCHES[batch]} has a label {label}, which has no name", where=self.path)
                yield Item(f"{BATCHES[batch]}/{row:05d}", whole.names[label], split, at=(batch, row))


@dataclass(frozen=True)
class Whole:
    """All that counts of an archive: rows (n, 3072) and labels by batch, and the names of the labels."""

    data: list[NDArray[np.uint8]]
    labels: list[list[int]]
    names: list[str]


@lru_cache(maxsize=1)
def _unpacked(path: str, stamped: tuple[int, str]) -> Whole:
    files = _files(path)
    due = (
        {*BATCHES, "batches.meta"} if "batches.meta" in files else {*(f"{b}.bin" for b in BATCHES), "batches.meta.txt"}
    )
    if missing := sorted(due - files.keys()):
        raise DataError(f"{missing[0]} is not in it", where=path, mend="fetch it again")
    if "batches.meta" in files:
        given = unpickle(files["batches.meta"], f"{path}: batches.meta").get("label_names")
        texts = given if isinstance(given, list) else []
        names = [text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in texts]
        found = [_pickled(files[name], f"{path}: {name}") for name in BATCHES]
    else:
        names = files["batches.meta.txt"].decode("utf-8", "replace").split()
        found = [_binary(files[f"{name}.bin"], f"{path}: {name}.bin") for name in BATCHES]
    return Whole([data for data, _ in found], [labels for _, labels in found], names)


def _binary(content: bytes, where: str) -> tuple[NDArray[np.uint8], list[int]]:
    if len(content) % (1 + ROW_BYTES):
        raise DataError(f"its length is not a multiple of {1 + ROW_BYTES}", where=where, mend="fetch it again")
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + ROW_BYTES)
    return rows[:, 1:], rows[:, 0].tolist()


def _pickled(content: bytes, where: str) -> tuple[NDArray[np.uint8], list[int]]:
    values = unpickle(content, where)
    data: Any = values.get("data")
    side_of(getattr(data, "shape", ()), getattr(data, "dtype", type(data).__name__), where)
    return data, numbers_of(values.get("labels"), len(data), where)


def _files(path: str) -> dict[str, bytes]:
    """The files that count, by name; whatever else the archive holds is passed over."""
    known = {*BATCHES, *(f"{name}.bin" for name in BATCHES), "batches.meta", "batches.meta.txt"}
    found = {}
    try:
        with tarfile.open(path, "r|gz") as tar:
            for info in tar:
                name = info.name.rpartition("/")[2]
                if name in known and info.isreg() and info.size <= MAX_BATCH_BYTES:
                    file = tar.extractfile(info)
                    found[name] = file.read() if file else b""
    except Exception as error:  # gzip, zlib and tarfile raise many things on damaged bytes
        says = f"is not a whole .tar.gz ({error or type(error).__name__})"
        raise DataError(says, where=path, mend="fetch it again") from None
    return found


def _find(rest: str) -> list[str]:
    path = os.path.expanduser(rest)
    tried = [path] if not os.path.isdir(path) else [os.path.join(path, name) for name in ARCHIVES]
    return [os.path.realpath(one) for one in tried if os.path.isfile(one)]


def fits(path: str) -> bool:
    return (os.path.isdir(path) or os.path.basename(path) in ARCHIVES) and bool(_find(path))


def open_uri(rest: str) -> Cifar10:
    paths = _find(rest)
    if not paths:
        raise DataError(f"no {' or '.join(ARCHIVES)} there", where=rest)
    return Cifar10(uri=readable(rest), path=paths[0])

"""A folder of image files: `root/CLASS/**/name.jpg`, or `root/SPLIT/CLASS/...`, or flat and then without labels."""

import errno
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fm.data.decode import EXTENSIONS, MAX_BYTES, Rejected
from fm.data.sources import Item, Listing, Source, readable, splits_of
from fm.errors import DataError, MachineError
from fm.lineage import canonical, digest

SCHEME = "folder"
FOR_EVERYBODY = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG)


@dataclass(frozen=True)
class Folder(Source):
    """Classes are the first folders below root, or below its splits if all folders of root are splits."""

    uri: str
    root: Path

    def found(self) -> Iterator[Item]:
        splits = _splits({path.partition("/")[0] for path, _ in self._files() if "/" in path})
        return (_item(path, splits) for path, _ in self._files())

    def read(self, item: Item) -> bytes:
        path = self.root / _path(item)
        try:
            info = path.stat()
            if not stat.S_ISREG(info.st_mode):  # reading a pipe or a device may never end
                raise Rejected("not-a-file")
            if info.st_size > MAX_BYTES:
                raise Rejected("too-large")
            with path.open("rb") as file:
                return file.read(info.st_size)  # and no more, should it grow meanwhile
        except OSError as error:
            if error.errno in FOR_EVERYBODY:
                raise Rejected("unreadable") from None
            raise MachineError(f"cannot be read ({error.strerror})", where=readable(str(path))) from None

    def digest(self) -> str:
        running = hashlib.sha256()  # over a listing that no memory holds whole
        for path, info in self._files():
            running.update(canonical([path, info.st_size, info.st_mtime_ns]).encode())
        return digest(SCHEME, running.hexdigest())

    def digest_of(self, items: Listing) -> str:
        return digest(SCHEME, [(path, *_stamp(self.root / path)) for path in map(_path, items)])

    def passed_over(self) -> dict[str, int]:
        return dict(Counter(path.suffix.lower() for path in self._below() if path.suffix.lower() not in EXTENSIONS))

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Image files below root: path relative to it with forward slashes, and its stat."""
        for path in self._below():
            if path.suffix.lower() in EXTENSIONS:
                yield path.relative_to(self.root).as_posix(), _stat(path)

    def _below(self) -> Iterator[Path]:
        """All files below root, links followed, but for hidden ones."""
        above: dict[str, set[tuple[int, int]]] = {}  # a folder and those that it is in
        for folder, below, names in os.walk(self.root, onerror=_refuse, followlinks=True):
            info = os.stat(folder)
            here, outer = (info.st_dev, info.st_ino), above.get(os.path.dirname(folder), set())
            if here in outer:  # a link back up
                below.clear()
                continue
            above[folder] = outer | {here}
            below[:] = sorted(name for name in below if not name.startswith("."))
            yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot be read ({error.strerror})", where=str(error.filename)) from None


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError:
        return path.lstat()  # a link to nowhere: listed, and rejected when it is read


def _stamp(path: Path) -> tuple[int, int]:
    try:
        info = _stat(path)
    except OSError:
        return 0, 0  # gone since it was listed: rejected when it is read
    return info.st_size, info.st_mtime_ns


def _splits(tops: set[str]) -> dict[str, str]:
    """Split names of the top folders, if all of them are such."""
    splits = splits_of(tops)
    return splits if "train" in tops and len(tops) > 1 and tops == splits.keys() else {}


def _path(item: Item) -> str:
    return item.at[0] if item.at else item.key


def _item(path: str, splits: dict[str, str]) -> Item:
    key = readable(path)
    parts = key.split("/")
    split = splits.get(parts[0]) if len(parts) > 1 else None
    folders = parts[1:-1] if split else parts[:-1]
    return Item(key, label=folders[0] if folders else None, split=split, at=() if key == path else (path,))


def fits(path: str) -> bool:
    return os.path.isdir(path) and next(open_uri(path)._files(), None) is not None


def open_uri(rest: str) -> Folder:
    root = Path(rest).expanduser()
    if not os.path.isdir(root):
        raise DataError("no such folder", where=rest)
    return Folder(uri=readable(rest), root=root.resolve())

"""A folder of image files: `root/CLASS/**/name.jpg`, or `root/SPLIT/CLASS/...`, or flat and then without labels."""

import errno
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
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
        splits = self._splits()
        return (_item(path, splits) for path in self._pictures())

    def read(self, item: Item) -> bytes:
        path = os.path.join(self.root, _path(item))  # a path's own methods take a quarter of the reading's time
        try:
            info = os.stat(path)
            if not stat.S_ISREG(info.st_mode):  # reading a pipe or a device may never end
                raise Rejected("not-a-file")
            if info.st_size > MAX_BYTES:
                raise Rejected("too-large")
            with open(path, "rb") as file:
                return file.read(info.st_size)  # and no more, should it grow meanwhile
        except OSError as error:
            if error.errno in FOR_EVERYBODY:
                raise Rejected("unreadable") from None
            raise MachineError(f"cannot be read ({error.strerror})", where=readable(path)) from None

    def digest(self) -> str:
        running = hashlib.sha256()  # over a listing that no memory holds whole
        for path in self._pictures():
            running.update(canonical([path, *_stamp(os.path.join(self.root, path))]).encode())
        return digest(SCHEME, running.hexdigest())

    def digest_of(self, items: Listing) -> str:
        return digest(SCHEME, [(path, *_stamp(os.path.join(self.root, path))) for path in map(_path, items)])

    def passed_over(self) -> dict[str, int]:
        return dict(Counter(ending for path in self._below() if (ending := _ending(path)) not in EXTENSIONS))

    def _pictures(self, folder: str = "") -> Iterator[str]:
        return (path for path in self._below(folder) if _ending(path) in EXTENSIONS)

    def _splits(self) -> dict[str, str]:
        """Split names of the top folders, if all of them that hold pictures are such; a `train` alone is one if it
        holds folders, else a class."""
        if not (self.root / "train").is_dir():
            return {}
        names = (path.name for path in self.root.iterdir() if path.is_dir() and not path.name.startswith("."))
        tops = {name for name in names if next(self._pictures(name), None) is not None}
        splits = splits_of(tops)
        nested = len(tops) > 1 or "/" in next(self._pictures("train"), "").removeprefix("train/")
        return splits if "train" in tops and tops == splits.keys() and nested else {}

    def _below(self, folder: str = "") -> Iterator[str]:
        """All files below a folder of root, as paths relative to root; links followed, but for hidden ones."""
        above: dict[str, set[tuple[int, int]]] = {}  # a folder and those that it is in
        for here, below, names in os.walk(self.root / folder, onerror=_refuse, followlinks=True):
            info = os.stat(here)
            this, outer = (info.st_dev, info.st_ino), above.get(os.path.dirname(here), set())
            if this in outer:  # a link back up
                below.clear()
                continue
            above[here] = outer | {this}
            below[:] = sorted(name for name in below if not name.startswith("."))
            prefix = os.path.join(os.path.relpath(here, self.root), "").removeprefix("./")
            yield from (prefix + name for name in sorted(names) if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot be read ({error.strerror})", where=str(error.filename)) from None


def _stamp(path: str) -> tuple[int, int]:
    """Size and time; of a link to nowhere its own, of what has gone since none: both are rejected when read."""
    for follow in (True, False):
        with suppress(OSError):
            info = os.stat(path, follow_symlinks=follow)
            return info.st_size, info.st_mtime_ns
    return 0, 0


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _path(item: Item) -> str:
    return item.at[0] if item.at else item.key


def _item(path: str, splits: dict[str, str]) -> Item:
    key = readable(path)
    parts = key.split("/")
    split = splits.get(parts[0]) if len(parts) > 1 else None
    folders = parts[1:-1] if split else parts[:-1]
    return Item(key, label=folders[0] if folders else None, split=split, at=() if key == path else (path,))


def fits(path: str) -> bool:
    return os.path.isdir(path) and next(open_uri(path)._pictures(), None) is not None


def open_uri(rest: str) -> Folder:
    root = Path(rest).expanduser()
    if not os.path.isdir(root):
        raise DataError("no such folder", where=rest)
    return Folder(uri=readable(rest), root=root.resolve())

"""WebDataset tars: a file, a folder of them (a prepared DATA too) or a glob, read in place; names in them untrusted."""

import glob
import os
import tarfile
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path, PurePosixPath

from fm.data.decode import EXTENSIONS, MAX_BYTES, Rejected
from fm.data.manifest import load_manifest
from fm.data.sources import Item, Source, readable
from fm.errors import DataError
from fm.lineage import digest

SCHEME = "tars"
SPLITS = {"train": "train", "test": "test", "val": "test", "validation": "test"}
MAX_LABEL_BYTES = 4096
PICTURES = EXTENSIONS | {".npy"}


@dataclass(frozen=True)
class Tars(Source):
    """Consecutive members of one key are a sample: its first image (or .npy) and its .cls, a number or a name.

    Splits are the tars' names up to the first `-` where these are train, test, val or validation. A number is named by
    the manifest of a prepared data set, else by its four digits; below zero it is no label.
    """

    uri: str
    paths: tuple[Path, ...]

    def items(self) -> list[Item]:
        common = Path(os.path.commonpath([path.parent for path in self.paths]))
        names = _class_names(common)
        items: list[Item] = []
        for path in self.paths:
            prefix = readable(path.relative_to(common).with_suffix("").as_posix())
            split = SPLITS.get(path.name.partition("-")[0])
            items += [replace(item, split=split) for item in _index(path, prefix, names)]
        return items

    def read(self, item: Item) -> bytes:
        path, offset, length = item.at
        if length > MAX_BYTES:
            raise Rejected("too-large")
        try:
            with open(path, "rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError:
            raise Rejected("unreadable") from None

    def digest(self) -> str:
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self.paths]
        return digest(SCHEME, stats)


def _class_names(folder: Path) -> list[str]:
    for root in (folder, folder.parent):
        with suppress(DataError):  # none, or that of another program
            return list(load_manifest(root).classes)
    return []


def _index(path: Path, prefix: str, names: list[str]) -> list[Item]:
    """The samples of one tar, a second of the same name marked as such.

    Raises: DataError if it is no tar or ends early.
    """
    items: list[Item] = []
    seen: set[str] = set()
    try:
        with tarfile.open(path, "r:") as tar:
            files = (info for info in tar if not info.isdir())
            for key, members in groupby(files, key=lambda info: _split_name(info.name)[0]):
                item = _sample(tar, list(members), path, f"{prefix}/{key}", names)
                if item:
                    items.append(replace(item, label=None, fault="duplicate") if key in seen else item)
                    seen.add(key)
    except (tarfile.TarError, EOFError, ValueError, ArithmeticError) as error:  # damaged headers raise all of these
        raise DataError(f"is not a whole tar archive ({error})", where=str(path), mend="fetch it again") from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from None
    return items


def _sample(
    tar: tarfile.TarFile, members: list[tarfile.TarInfo], path: Path, key: str, names: list[str]
) -> Item | None:
    """The item of one sample's members, None if it has no image."""
    label, image = None, None
    for info in members:
        ending = _split_name(info.name)[1]
        if ending == "cls":
            label = _label(tar, info, names)
        elif image is None and f".{ending.rpartition('.')[2]}" in PICTURES:
            image = info
    if image is None:
        return None
    plain = image.isreg() and not image.issparse()
    at = (str(path), image.offset_data, image.size) if plain else ()
    return Item(key=key, label=label, at=at, fault="" if plain else "not-a-file")


def _split_name(name: str) -> tuple[str, str]:
    """Key and ending as WebDataset cuts them: at the first dot of the last part."""
    path = PurePosixPath(readable(name))
    stem, _, ending = path.name.partition(".")
    return str(path.with_name(stem)) if stem else str(path), ending.lower()


def _label(tar: tarfile.TarFile, info: tarfile.TarInfo, names: list[str]) -> str | None:
    file = tar.extractfile(info) if info.isreg() and info.size <= MAX_LABEL_BYTES else None
    text = file.read().decode("utf-8", "replace").strip() if file else ""
    try:
        number = int(text)
    except ValueError:
        return text or None
    if number < 0:
        return None
    return names[number] if number < len(names) else f"{number:04d}"


def _find(rest: str) -> list[Path]:
    path = Path(rest).expanduser()
    if os.path.isdir(path):
        return sorted(path.glob("*.tar")) or sorted(path.glob("shards/*.tar"))
    if os.path.isfile(path):
        return [path]
    return sorted(Path(found) for found in glob.glob(str(path), recursive=True))


def fits(path: str) -> bool:
    return any(found.suffix == ".tar" for found in _find(path))


def open_uri(rest: str) -> Tars:
    paths = _find(rest)
    if not paths:
        raise DataError("no tar files there", where=rest)
    return Tars(uri=readable(rest), paths=tuple(path.resolve() for path in paths))

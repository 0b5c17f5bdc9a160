"""WebDataset tars: a file, a folder of them (a prepared DATA too) or a glob, read in place; names in them untrusted."""

import glob
import os
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from fm.data.decode import EXTENSIONS, MAX_BYTES, Rejected
from fm.data.manifest import load_manifest
from fm.data.sources import Item, Source
from fm.errors import DataError
from fm.lineage import digest

SCHEME = "tars"
SPLITS = {"train": "train", "test": "test", "val": "test", "validation": "test"}
MAX_LABEL_BYTES = 4096


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
            prefix = path.relative_to(common).with_suffix("").as_posix()
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
        if (root / "manifest.json").is_file():
            return list(load_manifest(root).classes)
    return []


def _index(path: Path, prefix: str, names: list[str]) -> list[Item]:
    """The samples of one tar.

    Raises: DataError if it is no tar or ends early.
    """
    samples: dict[str, Item] = {}
    repeated: list[Item] = []
    current = ""
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                if info.isdir():
                    continue
                key, ending = _split_name(info.name)
                if key != current and key in samples:
                    repeated.append(Item(key=f"{prefix}/{key}", fault="duplicate"))
                    current = ""
                    continue
                current = key
                sample = samples.get(key, Item(key=f"{prefix}/{key}"))
                if ending == "cls":
                    samples[key] = replace(sample, label=_label(tar, info, names))
                elif f".{ending.rpartition('.')[2]}" in EXTENSIONS | {".npy"} and not (sample.at or sample.fault):
                    plain = info.isreg() and not info.issparse()
                    at = (str(path), info.offset_data, info.size) if plain else ()
                    samples[key] = replace(sample, at=at, fault="" if plain else "not-a-file")
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"is not a whole tar archive ({error})", where=str(path), mend="fetch it again") from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from None
    return [sample for sample in samples.values() if sample.at or sample.fault] + repeated


def _split_name(name: str) -> tuple[str, str]:
    """Key and ending as WebDataset cuts them: at the first dot of the last part."""
    path = PurePosixPath(name)
    stem, _, ending = path.name.partition(".")
    return str(path.with_name(stem)) if stem else name, ending.lower()


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
    if path.is_dir():
        return sorted(path.glob("*.tar")) or sorted(path.glob("shards/*.tar"))
    if path.is_file():
        return [path]
    return sorted(Path(found) for found in glob.glob(str(path), recursive=True))


def fits(path: str) -> bool:
    return any(found.suffix == ".tar" for found in _find(path))


def open_uri(rest: str) -> Tars:
    paths = _find(rest)
    if not paths:
        raise DataError("no tar files there", where=rest)
    return Tars(uri=rest, paths=tuple(path.resolve() for path in paths))

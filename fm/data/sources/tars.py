"""WebDataset tars: a file, a folder of them (a prepared DATA too), a glob or `x-{000..146}.tar`, here or at any address
that fsspec knows; read in place, names in them untrusted."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import PurePosixPath
from typing import IO

from fm.data.addresses import is_address, unsigned
from fm.data.anywhere import expand, find, opened, stamp
from fm.data.decode import EXTENSIONS
from fm.data.manifest import FORMAT, load_manifest
from fm.data.sources import Item, Source, read_member, readable, splits_of, stamps, written
from fm.data.tarwalk import Damaged, Member, walk
from fm.errors import DataError, MachineError, UserError
from fm.lineage import digest

SCHEME = "tars"
MAX_LABEL_BYTES = 4096
MAX_NUMBER = 999_999  # of a label: six digits, which sort as numbers do
PICTURES = EXTENSIONS | {".npy"}
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class Tars(Source):
    """Consecutive members of one key are a sample: its first image (or .npy) and its .cls, a number or a name.

    An image whose ending has no inner dot comes before all others: `1.jpg` before `1.seg.png`. Splits are the tars'
    names up to the first `-` where these are names of splits. A number is named by the manifest of a prepared data set,
    else by its six digits; below zero or above 999,999 it is no label. An item's `at` is the number of its tar, offset
    and length.
    """

    uri: str
    paths: tuple[str, ...]

    def read(self, item: Item) -> bytes:
        return read_member(self.paths, item)

    def digest(self) -> str:
        return digest(SCHEME, stamps(self.paths))

    def found(self) -> Iterator[Item]:
        folders = [unsigned(path).split("/")[:-1] for path in self.paths]
        common = os.path.commonprefix(folders)  # noqa: RUF071 (lists)
        names = _class_names("/".join(common))
        splits = splits_of({_first_word(path) for path in self.paths})
        for number, path in enumerate(self.paths):
            inner = "/".join(written(path).split("/")[len(common) :])
            prefix = str(PurePosixPath(inner).with_suffix(""))
            split = splits.get(_first_word(path))
            with opened(path) as file:
                try:
                    members = walk(file, 0, stamp(path)[0])
                    for key, sample in groupby(members, key=lambda member: _split_name(member.name)[0]):
                        yield from _sample(file, sample, f"{prefix}/{key}", split, number, names)
                except Damaged as error:
                    where = written(path)
                    raise DataError(f"is not a whole tar archive ({error})", where, mend="fetch it again") from None


def _first_word(path: str) -> str:
    return PurePosixPath(unsigned(path)).name.partition("-")[0]


def _class_names(folder: str) -> list[str]:
    """Those of the prepared data set that the folder's tars are of; none if they are of no such set.

    Raises: DataError if its manifest is damaged or cannot be read now: labels would silently become numbers.
    """
    above = folder.rpartition("/")[0]
    for root in [folder, above] if is_address(above) == is_address(folder) else [folder]:  # `s3://bucket` is the top
        try:
            return list(load_manifest(root).classes)
        except UserError:
            if not _of_nobody(f"{root}/manifest.json"):
                raise
    return []


def _of_nobody(path: str) -> bool:
    """Whether there is no such manifest (or none to be read: S3 refuses what is not there), or one of another program.

    Raises: MachineError if nobody can tell now.
    """
    try:
        with opened(path) as file:
            content = json.load(file)
    except MachineError:
        raise
    except DataError:
        return True
    except ValueError:
        return False
    return not (isinstance(content, dict) and content.get("format") == FORMAT)


def _sample(
    file: IO[bytes], members: Iterable[Member], key: str, split: str | None, number: int, names: list[str]
) -> Iterator[Item]:
    """The item of one sample's members, none if it has no image; and one for each further image of the same name."""
    label: str | None = None
    images: list[tuple[bool, Member]] = []  # whether its ending has an inner dot, and the image
    for member in members:
        ending = _split_name(member.name)[1]
        if ending == "cls":
            label = _label(file, member, names)
        elif f".{ending.rpartition('.')[2]}" in PICTURES:
            images.append(("." in ending, member))
    chosen = min(images, key=lambda image: image[0])[1].name if images else None
    for _, image in images:
        if image.name == chosen:  # of one key the first counts
            yield Item(key, label, split, at=(number, image.offset, image.length), fault=image.fault)


@lru_cache(2)  # asked twice for each member
def _split_name(name: str) -> tuple[str, str]:
    """Key and ending as WebDataset cuts them: at the first dot of the last part."""
    path = PurePosixPath(readable(name))
    stem, _, ending = path.name.partition(".")
    return str(path.with_name(stem)) if stem else str(path), ending.lower()


def _label(file: IO[bytes], member: Member, names: list[str]) -> str | None:
    if not member.plain or member.length > MAX_LABEL_BYTES:
        return None
    file.seek(member.offset)
    text = file.read(member.length).decode("utf-8", "replace").strip()
    try:
        number = int(text)
    except ValueError:
        return text or None
    if not 0 <= number <= MAX_NUMBER:
        return None
    return names[number] if number < len(names) else f"{number:06d}"


def _find(rest: str) -> list[str]:
    """The tars that are meant.

    Raises: DataError if one that a pattern of numbers names is not there, or one is compressed.
    """
    if unsigned(rest).endswith((".tar", *COMPRESSED)):
        found = _each(rest)
    elif is_address(rest) or os.path.isdir(os.path.expanduser(rest)):
        folder = unsigned(rest).rstrip("/")
        found = find(f"{folder}/*.tar") or find(f"{folder}/shards/*.tar")
    else:
        found = find(rest)
    for path in map(written, found):
        if path.endswith(COMPRESSED):
            raise DataError("is compressed, and pictures are read where they lie in a tar", path, "unpack it to a .tar")
    return found


def _each(rest: str) -> list[str]:
    """The files of each pattern that the numbers in braces make of one."""
    patterns = expand(rest)
    found = [find(pattern) for pattern in patterns]
    missing = [pattern for pattern, paths in zip(patterns, found, strict=True) if not paths]
    if missing and len(patterns) > 1:
        says = f"no such file, the first of {len(missing):,} that are missing of {len(patterns):,}"
        raise DataError(says, written(missing[0]), "fetch them, or give the numbers that are there")
    return [path for paths in found for path in paths]


def fits(path: str) -> bool:
    return is_address(path) or any(found.endswith(".tar") for found in _find(path))


def open_uri(rest: str) -> Tars:
    paths = _find(rest)
    if not paths:
        raise DataError("no tar files there", where=written(rest))
    return Tars(uri=written(rest), paths=tuple(paths))

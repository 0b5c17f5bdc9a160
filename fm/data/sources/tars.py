"""WebDataset tars: a file, a folder of them (a prepared DATA too), a glob or `x-{000..146}.tar`, here or at any address
that fsspec knows; read in place, names in them untrusted."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from typing import IO

from fm.data.addresses import is_address
from fm.data.anywhere import expand, find, opened, stamp
from fm.data.decode import EXTENSIONS
from fm.data.manifest import FORMAT, load_manifest
from fm.data.sources import Item, Source, read_member, readable, splits_of
from fm.data.tarwalk import Damaged, Member, walk
from fm.errors import DataError, UserError
from fm.lineage import digest

SCHEME = "tars"
MAX_LABEL_BYTES = 4096
PICTURES = EXTENSIONS | {".npy"}


@dataclass(frozen=True)
class Tars(Source):
    """Consecutive members of one key are a sample: its first image (or .npy) and its .cls, a number or a name.

    Splits are the tars' names up to the first `-` where these are names of splits. A number is named by
    the manifest of a prepared data set, else by its four digits; below zero it is no label. An item's `at` is the
    number of its tar, offset and length.
    """

    uri: str
    paths: tuple[str, ...]

    def read(self, item: Item) -> bytes:
        return read_member(self.paths, item)

    def digest(self) -> str:
        return digest(SCHEME, [(readable(PurePosixPath(path).name), *stamp(path)) for path in self.paths])

    def found(self) -> Iterator[Item]:
        common = os.path.commonprefix([path.split("/")[:-1] for path in self.paths])  # noqa: RUF071 (lists)
        names = _class_names("/".join(common))
        splits = splits_of({_first_word(path) for path in self.paths})
        for number, path in enumerate(self.paths):
            inner = "/".join(path.split("/")[len(common) :])
            prefix = readable(str(PurePosixPath(inner).with_suffix("")))
            split = splits.get(_first_word(path))
            with opened(path) as file:
                try:
                    members = walk(file, 0, stamp(path)[0])
                    for key, sample in groupby(members, key=lambda member: _split_name(member.name)[0]):
                        yield from _sample(file, sample, f"{prefix}/{key}", split, number, names)
                except Damaged as error:
                    where = readable(path)
                    raise DataError(f"is not a whole tar archive ({error})", where, mend="fetch it again") from None


def _first_word(path: str) -> str:
    return PurePosixPath(path).name.partition("-")[0]


def _class_names(folder: str) -> list[str]:
    """Those of the prepared data set that the folder's tars are of; none if they are of no such set.

    Raises: DataError if its manifest is damaged: labels would silently become numbers.
    """
    for root in (folder, folder.rpartition("/")[0]):
        try:
            return list(load_manifest(root).classes)
        except UserError:
            if not _of_nobody(f"{root}/manifest.json"):
                raise
    return []


def _of_nobody(path: str) -> bool:
    """Whether there is no such manifest, or a whole one of another program."""
    try:
        with opened(path) as file:
            content = json.load(file)
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
    images: list[Member] = []
    for member in members:
        ending = _split_name(member.name)[1]
        if ending == "cls":
            label = _label(file, member, names)
        elif f".{ending.rpartition('.')[2]}" in PICTURES and (not images or member.name == images[0].name):
            images.append(member)
    for image in images:  # of one key the first counts
        yield Item(key, label, split, at=(number, image.offset, image.length), fault=image.fault)


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
    if number < 0:
        return None
    return names[number] if number < len(names) else f"{number:04d}"


def _find(rest: str) -> list[str]:
    if rest.partition("?")[0].endswith(".tar"):
        return [path for pattern in expand(rest) for path in find(pattern)]
    if is_address(rest) or os.path.isdir(os.path.expanduser(rest)):
        return find(f"{rest.rstrip('/')}/*.tar") or find(f"{rest.rstrip('/')}/shards/*.tar")
    return find(rest)


def fits(path: str) -> bool:
    return is_address(path) or any(found.endswith(".tar") for found in _find(path))


def open_uri(rest: str) -> Tars:
    paths = _find(rest)
    if not paths:
        raise DataError("no tar files there", where=rest)
    uri = rest.partition("?")[0] if is_address(rest) else rest  # a signed address is not for the manifest
    return Tars(uri=readable(uri), paths=tuple(paths))

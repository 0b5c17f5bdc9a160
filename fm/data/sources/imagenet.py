"""ImageNet as it is downloaded: `ILSVRC2012_img_train.tar`, a tar of 1,000 tars, and `ILSVRC2012_img_val.tar`, read in
place, here or at any address; or any tar of tars, each of which is a class.

The validation pictures get their classes from `ILSVRC2012_devkit_t12.tar.gz` beside them, or from the FILE of
`imagenet:FOLDER?labels=FILE`. A signature is for one file: the kit beside a signed address is asked for without it.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from fm.data.addresses import is_address, unsigned
from fm.data.anywhere import find, opened, stamp
from fm.data.decode import EXTENSIONS
from fm.data.sources import Item, Listing, Source, files_digest, options, read_member, readable, stamps, written
from fm.data.tarwalk import Damaged, Member, walk
from fm.data.wnids import DEVKIT, beside, validation_labels
from fm.errors import DataError
from fm.lineage import digest

SCHEME = "imagenet"
TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
COUNTS = {TRAIN: ("train", 1_281_167), VALIDATION: ("test", 50_000)}


@dataclass(frozen=True)
class ImageNet(Source):
    """A tar of tars is the split train if it has ImageNet's name, else of none; a plain one, whose classes stand in the
    file `labels`, is the split test.

    Classes are the names of the inner tars; pictures beside these have none. An inner tar that is damaged is one
    rejected item, beside those of its pictures that are whole. An item's `at` is the number of the outer tar, offset
    and length.
    """

    uri: str
    paths: tuple[str, ...]
    labels: str | None

    def read(self, item: Item) -> bytes:
        return read_member(self.paths, item)

    def digest(self) -> str:
        return digest(SCHEME, stamps(self.paths), self._labels() if self.labels else None)

    def digest_of(self, items: Listing) -> str:
        return files_digest(self.paths, items)

    def expected(self) -> dict[str, int]:
        return dict(COUNTS[name] for path in self.paths if (name := _name(path)) in COUNTS)

    def _labels(self) -> list[str]:
        return validation_labels(self.labels) if self.labels else []

    def found(self) -> Iterator[Item]:
        for number, path in enumerate(self.paths):
            with opened(path) as file:
                try:
                    members = walk(file, 0, stamp(path)[0])
                    flat = _is_flat(path)
                    yield from (
                        self._validation(members, number) if flat else _train(file, members, _split(path), number)
                    )
                except Damaged as error:
                    raise DataError(f"{error}", where=written(path), mend="download it again") from None

    def _validation(self, members: Iterator[Member], number: int) -> Iterator[Item]:
        pictures = sorted(member for member in members if _is_picture(member))
        labels = self._labels()
        if len(pictures) != len(labels):
            listed = unsigned(self.labels or "")
            says = f"{len(labels):,} words in {listed}, a class a line, for {len(pictures):,} pictures"
            mend = "give a list with a line for each picture, or download again what is cut short"
            raise DataError(says, where=written(self.paths[number]), mend=mend)
        for member, label in zip(pictures, labels, strict=True):
            yield _item(member, f"val/{readable(member.name)}", label, "test", number)


def _split(path: str) -> str | None:
    return COUNTS[name][0] if (name := _name(path)) in COUNTS else None


def _train(file: IO[bytes], members: Iterator[Member], split: str | None, number: int) -> Iterator[Item]:
    for inner in members:
        name = readable(inner.name)
        if _is_picture(inner):  # of no class
            yield _item(inner, name, None, split, number)
        if not name.lower().endswith(".tar"):
            continue
        at, label = (number, inner.offset, inner.length), PurePosixPath(name).stem
        if inner.fault:
            yield Item(name, split=split, at=at, fault=inner.fault)
            continue
        try:
            for member in walk(file, inner.offset, inner.offset + inner.length):
                if _is_picture(member):
                    yield _item(member, f"{label}/{readable(member.name)}", label, split, number)
        except Damaged:
            yield Item(name, split=split, at=at, fault="damaged-archive")


def _item(member: Member, key: str, label: str | None, split: str | None, number: int) -> Item:
    at = (number, member.offset, member.length)
    return Item(key, label, split, at=at, fault=member.fault)


def _is_picture(member: Member) -> bool:
    return PurePosixPath(member.name).suffix.lower() in EXTENSIONS


def _is_flat(path: str) -> bool:
    """Whether a tar's first file is anything but a tar.

    Raises: DataError if it is no tar.
    """
    with opened(path) as file:
        try:
            first = next(walk(file, 0, stamp(path)[0]), None)
        except Damaged as error:
            raise DataError(f"is not a whole tar archive ({error})", written(path), "download it again") from None
    return first is None or not first.name.lower().endswith(".tar")


def _name(path: str) -> str:
    return PurePosixPath(unsigned(path)).name


def _find(rest: str) -> list[str]:
    if unsigned(rest).endswith(".tar"):
        return find(rest)
    return [path for name in COUNTS for path in find(os.path.join(rest, name))]


def fits(path: str) -> bool:
    if is_address(path):
        return _name(path) in COUNTS
    with suppress(DataError):
        found = _find(path)
        return any(os.path.basename(one) in COUNTS or not _is_flat(one) for one in found)
    return False


def open_uri(rest: str) -> ImageNet:
    where, chosen = options(rest, SCHEME, ("labels",))
    paths = _find(where)
    if not paths:
        raise DataError(f"no {TRAIN} or {VALIDATION} there", where=written(where))
    flat = [path for path in paths if _is_flat(path)]
    labels = chosen.get("labels") or (beside(os.path.dirname(unsigned(flat[0]))) if flat else None)
    if flat and labels is None:
        raise DataError(
            "its classes are in a file of their own",
            written(flat[0]),
            f"put {DEVKIT}.tar.gz beside it or add `?labels=FILE`",
        )
    uri = f"{SCHEME}:{written(where)}?labels={written(labels)}" if chosen and labels else written(where)
    return ImageNet(uri, tuple(paths), os.path.expanduser(labels) if labels else None)

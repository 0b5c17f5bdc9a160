"""Where pictures come from, addressed by URI: `photos:`, a folder, tars. A file in this folder is a member.

A member's module has `SCHEME`, `open_uri(rest) -> Source`, and `fits(path) -> bool`: is a bare path such a source?
A source lists its pictures and hands out their bytes; splitting, decoding and resizing are not its business. Archives
and batches are read where they lie, a picture at a time.
"""

import importlib
import os
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import ClassVar
from urllib.parse import parse_qsl

from fm.data.addresses import is_address, unsigned
from fm.data.anywhere import read_range, stamp
from fm.data.decode import MAX_BYTES, Rejected
from fm.data.listing import Item, Listing, listed
from fm.errors import DataError, SettingsError, nearest
from fm.lineage import digest

__all__ = [
    "KEEPABLE",
    "OPTIONS",
    "QUERY",
    "Item",
    "Listing",
    "Source",
    "files_digest",
    "members",
    "open_source",
    "options",
    "parted",
    "read_member",
    "readable",
    "splits_of",
    "stamps",
    "written",
]


OPTIONS = ("holdout", "labels", "names", "tiles")  # of all schemes, which an address's query may hold
QUERY = "FM_SOURCE_QUERY"
# A URI that may be kept: what follows the `?` of an address is ours alone (of what stands before it, no look-ahead:
# forms and pydantic share no other dialect).
KEEPABLE = rf"^([^?]*|([^?:]|:[^/?]|:/[^/?])*:?/?\?.*|[^?]*\?(({'|'.join(OPTIONS)})=[^&]*(&|$))*)$"
SPLITS = {"train": "train", "test": "test", "val": "test", "valid": "test", "validation": "test"}


class Source(ABC):
    """Pictures under one URI. Picklable; any process that sees the same files can read it.

    Of a `numbered` one sample i of a split is its i-th picture by key; samples of others are shuffled.
    """

    uri: str
    numbered: ClassVar[bool] = False

    @abstractmethod
    def found(self) -> Iterable[Item]:
        """Every picture, in any order.

        Raises: DataError if the source cannot be listed.
        """

    def items(self) -> Listing:
        """Every picture, in the order of the keys; errors as `found` raises them."""
        return listed(self.found())

    @abstractmethod
    def read(self, item: Item) -> bytes:
        """The bytes of its image file (or of a uint8 (height, width, 3) `.npy`).

        Raises: fm.data.decode.Rejected; DataError if the source itself cannot be read any more.
        """

    @abstractmethod
    def digest(self) -> str:
        """Identifies the content cheaply: names, sizes and times of files, not their bytes."""

    def digest_of(self, items: Listing) -> str | None:
        """Identifies the content of these items alone, as cheaply; None if a change may lie anywhere in the source."""
        return None

    def expected(self) -> dict[str, int]:
        """How many pictures each split is known to have; nothing where nobody knows."""
        return {}

    def classes(self) -> tuple[str, ...]:
        """Names of classes that it has whether or not a picture is of them."""
        return ()

    def passed_over(self) -> dict[str, int]:
        """How many files beside the pictures it does not list, by ending; nothing where it does not look."""
        return {}


def read_member(paths: Sequence[str], item: Item) -> bytes:
    """A picture that lies in an archive: its `at` is the archive's number in `paths`, offset and length.

    Raises: as `Source.read`.
    """
    number, offset, length = item.at
    if length > MAX_BYTES:
        raise Rejected("too-large")
    return read_range(paths[number], offset, length)


def files_digest(paths: Sequence[str], items: Listing) -> str:
    """The `digest_of` items whose `at` begins with their file's number in `paths`."""
    numbers = sorted({item.at[0] for item in items})
    return digest(stamps([paths[number] for number in numbers]))


def stamps(paths: Sequence[str]) -> list[tuple[str, int, str]]:
    """Name, bytes and tag of each file."""
    return [(PurePosixPath(written(path)).name, *stamp(path)) for path in paths]


def splits_of(names: set[str]) -> dict[str, str]:
    """The splits that these names of folders or files stand for, without the names that stand for none; val is test
    unless there is a test."""
    return {
        name: "val" if "test" in names and name not in ("train", "test") else SPLITS[name]
        for name in names & SPLITS.keys()
    }


def readable(name: str) -> str:
    """A file's name as text that every format can hold: bytes that are not UTF-8 become `\\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def written(path: str) -> str:
    """A path, or an address without its query, as it stands in keys, digests and messages."""
    return readable(unsigned(path))


def options(rest: str, scheme: str, known: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """`path?name=value` as path and options; what else stands in the query of an address stays there, for its server.

    Raises: SettingsError for an option of a path that is not known.
    """
    address, _, query = rest.partition("?")
    if is_address(address):
        parts = query.split("&")
        ours = [part for part in parts if part.partition("=")[0] in known]
        theirs = "&".join(part for part in parts if part not in ours)
        return f"{address}?{theirs}" if theirs else address, dict(parse_qsl("&".join(ours)))
    path, mark, query = rest.rpartition("?")
    if not mark:
        return rest, {}
    found = dict(parse_qsl(query, keep_blank_values=True))
    for name in found:
        if name not in known:
            raise SettingsError(f"unknown option {name!r}", where=f"{scheme}:{rest}", mend=nearest(name, known))
    return path, found


def members() -> dict[str, ModuleType]:
    """The source modules by scheme."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return {module.SCHEME: module for module in modules}


def parted(uri: str) -> tuple[str, str]:
    """A URI as it may be kept, and what the query of its address has for the server alone, such as a signature."""
    address, _, query = uri.partition("?")
    if not is_address(address) or not query:
        return uri, ""
    parts = query.split("&")
    ours = [part for part in parts if part.partition("=")[0] in OPTIONS]
    theirs = "&".join(part for part in parts if part not in ours)
    return "?".join(filter(None, (address, "&".join(ours)))), theirs


def open_source(uri: str | Path) -> Source:
    """The source at `scheme:rest`, or at a bare path whose kind is recognised.

    An address without a query for its server is given that of the environment, FM_SOURCE_QUERY.

    Raises: DataError for an unknown scheme, a path that does not exist, or one that is no source.
    """
    uri, known = str(uri), members()
    kept = os.environ.get(QUERY, "")
    if kept and is_address(uri) and not parted(uri)[1]:
        uri += ("&" if "?" in uri else "?") + kept
    scheme, colon, rest = uri.partition(":")
    if colon and scheme in known:
        return known[scheme].open_uri(rest)
    for module in known.values():
        if module.fits(uri):
            return module.open_uri(uri)
    if uri and os.path.exists(uri):
        raise DataError("no pictures in it", where=uri, mend="give a folder of images, WebDataset tars, or `photos:`")
    if colon and re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        raise DataError(f"unknown kind of source {scheme!r}", where=uri, mend=nearest(scheme, known))
    raise DataError("no such file or folder", where=uri or "source", mend="`photos:` is a source that is always there")

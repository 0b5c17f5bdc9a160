"""Where pictures come from, addressed by URI: `photos:`, a folder, tars. A file in this folder is a member.

A member's module has `SCHEME`, `open_uri(rest) -> Source`, and `fits(path) -> bool`: is a bare path such a source?
A source lists its pictures and hands out their bytes; splitting, decoding and resizing are not its business.
"""

import importlib
import os
import pkgutil
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from fm.errors import DataError, nearest


@dataclass(frozen=True)
class Item:
    """One picture of a source. Strings from outside are only ever recorded, never used as a path to write to.

    key: unique in the source, the same wherever it lies; label: class name or None; split: the source's own or None;
    meta: facts for the sample's JSON; at: the source's own way to find it; fault: a reason of `fm.data.decode.REASONS`
    to leave it out unread.
    """

    key: str
    label: str | None = None
    split: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    at: tuple[Any, ...] = ()
    fault: str = ""


class Source(ABC):
    """Pictures under one URI. Picklable; any process that sees the same files can read it."""

    uri: str

    @abstractmethod
    def items(self) -> list[Item]:
        """Every picture, in any order.

        Raises: DataError if the source cannot be listed.
        """

    @abstractmethod
    def read(self, item: Item) -> bytes:
        """The bytes of its image file (or of a uint8 (height, width, 3) `.npy`).

        Raises: fm.data.decode.Rejected.
        """

    @abstractmethod
    def digest(self) -> str:
        """Identifies the content cheaply: names, sizes and times of files, not their bytes."""


def readable(name: str) -> str:
    """A file's name as text that every format can hold: bytes that are not UTF-8 become `\\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def members() -> dict[str, ModuleType]:
    """The source modules by scheme."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return {module.SCHEME: module for module in modules}


def open_source(uri: str | Path) -> Source:
    """The source at `scheme:rest`, or at a bare path whose kind is recognised.

    Raises: DataError for an unknown scheme, a path that does not exist, or one that is no source.
    """
    uri, known = str(uri), members()
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

"""Weights of feature networks: where each lies, and that it is the published file before anything reads it.

Loading such a file may run code of its author's, and clean-fid's own place for one is a folder that anybody writes in.
So the bytes that are loaded are the bytes that were hashed, and a copy is kept where only this user writes.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from fm.data.addresses import node_cache
from fm.errors import UserError
from fm.files import atomic, sha256, writable_folder

VARIABLE = "FM_FEATURES"  # a folder that holds the files under their published names, or one file
NAMES: set[str] = set()  # of all published files: one file, named for another network, is not this one's


class Missing(UserError):
    """Weights that are nowhere on this machine."""


class Source(Protocol):
    """Where a network's weights come from."""

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str:
        """What identifies the weights in a row.

        Raises: UserError if the package that holds them is not installed.
        """

    def read(self) -> bytes:
        """The checked bytes.

        Raises: UserError if they are missing, others, or cannot be read.
        """

    def check(self) -> str:
        """The SHA-256 of what `read` would give, found without holding it in memory; the same errors."""

    def there(self) -> bool:
        """Whether they are on this machine, whatever they are."""

    def mend(self) -> str:
        """What to do where they are missing."""


@dataclass(frozen=True)
class Weights:
    """A published file that users bring: its name, the SHA-256 and count of its bytes, where other tools leave it."""

    name: str
    sha256: str
    size_bytes: int
    elsewhere: Path

    def __post_init__(self) -> None:
        NAMES.add(self.name)

    def read(self) -> bytes:
        """The file's bytes: from this user's cache, else from FM_FEATURES, else from where other tools leave it.

        Raises: UserError if it is nowhere, ends early, is another file, or cannot be read.
        """
        file = self._found()
        with _reading(file):
            content = file.read_bytes()
        self._compare(file, hashlib.sha256(content).hexdigest(), len(content))
        if file != self.kept:
            self._keep(content)
        return content

    def check(self) -> str:
        """The SHA-256 of the file that `read` would load; reads it once, a piece at a time.

        Raises: what `read` raises.
        """
        file = self._found()
        with _reading(file):
            found, size_bytes = sha256(file), file.stat().st_size
        self._compare(file, found, size_bytes)
        return found

    def mend(self) -> str:
        return f"set {VARIABLE} to this file or its folder, or put it into {self.kept.parent}"

    @property
    def kept(self) -> Path:
        """Its place in the folder of the cache where only this user writes."""
        return node_cache() / f"features-{os.getuid()}" / self.name

    def there(self) -> bool:
        """Whether a file stands where it is looked for, whatever is in it.

        Raises: UserError if a folder cannot be read.
        """
        return self._place() is not None

    def _found(self) -> Path:
        file = self._place()
        if file is None:
            raise Missing(f"{self.name} is not on this machine", mend=self.mend())
        return file

    def _place(self) -> Path | None:
        for place in self._places():
            with _reading(place.parent):
                if place.is_file():
                    return place
        return None

    def _places(self) -> Iterator[Path]:
        yield self.kept
        if named := os.environ.get(VARIABLE):
            place = Path(named).expanduser()
            with _reading(place):
                whole = place.is_dir()
            if whole or place.name == self.name or place.name not in NAMES:
                yield place / self.name if whole else place
        else:
            yield self.elsewhere / self.name

    def _compare(self, file: Path, found: str, size_bytes: int) -> None:
        if found == self.sha256:
            return
        if size_bytes < self.size_bytes and file.name == self.name:
            raise UserError(
                f"ends early, after {size_bytes:,} of {self.size_bytes:,} bytes", str(file), "bring the whole file"
            )
        raise UserError(
            f"is not the published {self.name}: its SHA-256 begins with {found[:12]}, not {self.sha256[:12]}",
            where=str(file),
            mend=f"put the published one there, or set {VARIABLE} to it or its folder",
        )

    def _keep(self, content: bytes) -> None:
        writable_folder(self.kept.parent).chmod(0o700)
        with atomic(self.kept) as out:
            os.fchmod(out.fileno(), 0o600)
            out.write(content)


@contextmanager
def _reading(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", str(place), "give yourself the right to read") from None


@dataclass(frozen=True)
class Packaged:
    """A file inside an installed package: `locate`, a function of the package's module, says where."""

    name: str
    module: str
    locate: str

    @property
    def sha256(self) -> str:
        return self.check()

    def read(self) -> bytes:
        return self._file().read_bytes()

    def check(self) -> str:
        return sha256(self._file())

    def there(self) -> bool:
        return find_spec(self.module) is not None

    def mend(self) -> str:
        return "run `make setup`, or choose features = 'random_conv'"

    def _file(self) -> Path:
        try:
            found = import_module(self.module)
        except ImportError as error:
            raise Missing(f"the feature network needs the package {error.name!r}", self.name, self.mend()) from None
        owner, function = self.locate.split(".")
        return Path(getattr(getattr(found, owner), function)())


@dataclass(frozen=True)
class Seeded:
    """Weights that are drawn, not trained."""

    name: str
    sha256: str

    def read(self) -> bytes:
        return b""

    def check(self) -> str:
        return self.sha256

    def there(self) -> bool:
        return True

    def mend(self) -> str:
        return "nothing is needed"

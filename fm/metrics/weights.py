"""Weights of published feature networks: files that users bring, known by their SHA-256 before anything reads them.

Loading such a file may run code of its author's, and clean-fid's own place for one is a folder that anybody writes in.
So the bytes that are loaded are the bytes that were hashed, and a copy is kept where only this user writes.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fm.data.addresses import node_cache
from fm.errors import UserError
from fm.files import atomic, writable_folder

VARIABLE = "FM_INCEPTION"  # a file, or a folder that holds it under its published name


@dataclass(frozen=True)
class Weights:
    """A published file: its name, the SHA-256 of its bytes, and the folder where other tools leave it."""

    name: str
    sha256: str
    elsewhere: Path

    def read(self) -> bytes:
        """The file's bytes: from this user's cache, else from FM_INCEPTION, else from where other tools leave it.

        Raises: UserError if it is nowhere, is another file, or cannot be read.
        """
        kept = node_cache() / f"features-{os.getuid()}" / self.name
        file = next((place for place in self._places(kept) if place.is_file()), None)
        if file is None:
            raise UserError(
                f"{self.name} is not on this machine",
                mend=f"set {VARIABLE} to this file or its folder, or put it into {kept.parent}",
            )
        content = self._checked(file)
        if file != kept:
            self._keep(content, kept)
        return content

    def _places(self, kept: Path) -> Iterator[Path]:
        yield kept
        if named := os.environ.get(VARIABLE):
            place = Path(named).expanduser()
            yield place / self.name if place.is_dir() else place
        else:
            yield self.elsewhere / self.name

    def _checked(self, file: Path) -> bytes:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise UserError(
                f"cannot be read ({error.strerror})", str(file), "give yourself the right to read"
            ) from None
        if (found := hashlib.sha256(content).hexdigest()) != self.sha256:
            raise UserError(
                f"is not the published {self.name}: its SHA-256 begins with {found[:12]}, not {self.sha256[:12]}",
                where=str(file),
                mend=f"put the published one there, or set {VARIABLE} to it or its folder",
            )
        return content

    def _keep(self, content: bytes, kept: Path) -> None:
        writable_folder(kept.parent).chmod(0o700)
        with atomic(kept) as out:
            os.fchmod(out.fileno(), 0o600)
            out.write(content)

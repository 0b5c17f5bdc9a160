"""Where a shard's files lie for its reader: in DATA, or in a cache folder of this node, filled as they are asked for.

Shards at an address are copied into the cache; shards of PNG files are decoded into it once, if there is one. A file
there is whole or absent. SHA-256 is compared when a file is staged, and when this node first opens one that lies here.
The processes of a node take turns at each shard: one stages it for all, and the last that holds it may drop it.
"""

import fcntl
import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from fm.data.addresses import is_address, node_cache, read_pieces
from fm.data.manifest import REPAIR, Manifest, Shard, index_path, read_index, tar_path
from fm.errors import DataError, UserError
from fm.files import alone, atomic, in_turn, sha256, writable_folder

Decode = Callable[[list[bytes]], NDArray[np.uint8]]  # some files of a shard -> (n, height, width, channels)
DECODED_AT_ONCE = 256
HASH_BYTES = 32
HOLDERS, TURNS, WHOLE = "holders", "turns", "whole"  # beside the shards' files: locks, and words that they were whole


@dataclass(frozen=True)
class Staging:
    """The shards of the data set at `root`, as files of this machine.

    cache: needed where root is an address; without one nothing is staged.
    """

    root: str
    manifest: Manifest
    cache: Path | None = None

    @property
    def remote(self) -> bool:
        return is_address(self.root)

    @property
    def decodes(self) -> bool:
        """Whether samples are kept as decoded pixels."""
        settings = self.manifest.settings
        return self.cache is not None and settings.encoding == "png" and settings.low_size is None

    def index(self, shard: Shard) -> NDArray[np.int64]:
        """As `fm.data.manifest.read_index`.

        Raises: DataError if it is missing or is not what the manifest says.
        """
        if not self.remote:
            return read_index(Path(self.root), shard)
        with self._turn(shard):
            return self._staged_index(shard)

    def samples(self, shard: Shard, decode: Decode) -> Path:
        """The shard's tar; or, where samples are kept decoded, their pixels one after another.

        Raises: DataError if it is missing, is not what the manifest says, or there is no room for it.
        """
        if not self.remote and not self.decodes:
            return self._tar(shard)
        with self._turn(shard):
            return self._pixels(shard, decode) if self.decodes else self._tar(shard)

    def hold(self, shard: Shard) -> IO[str] | None:
        """Until this file is closed, nobody on this node drops the shard (None: nothing is ever staged)."""
        if self.cache is None:
            return None
        file = self._holders(shard)
        fcntl.flock(file, fcntl.LOCK_SH)
        return file

    def drop(self, shard: Shard) -> None:
        """Removes what was staged of the shard, unless somebody on this node holds it."""
        if self.cache is None:
            return
        with self._holders(shard) as file, suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in staged(self._folder, shard.name):
                path.unlink(missing_ok=True)

    @property
    def _folder(self) -> Path:
        """This data set's part of the cache, laid out as DATA is."""
        return (self.cache or node_cache()) / self.manifest.digest

    def _holders(self, shard: Shard) -> IO[str]:
        return open(writable_folder(self._folder / HOLDERS / shard.name) / ".lock", "a")

    def _turn(self, shard: Shard) -> AbstractContextManager[None]:
        return in_turn(self._folder / TURNS / shard.name)

    def _staged_index(self, shard: Shard) -> NDArray[np.int64]:
        path = index_path(self._folder, shard.name)
        if not path.is_file() or sha256(path) != shard.index_sha256:
            self._fetch(path, shard.index_sha256)
        return read_index(self._folder, shard)

    def _tar(self, shard: Shard) -> Path:
        path = tar_path(self._folder if self.remote else Path(self.root), shard.name)
        whole = self._whole(path, shard.bytes, lambda: sha256(path) == shard.sha256)
        if not whole and not self.remote:
            raise DataError(f"shards/{path.name} is missing or does not match the manifest", self.root, REPAIR)
        if not whole:
            self._fetch(path, shard.sha256)
            self._remember(path, _identity(path))
        return path

    def _whole(self, path: Path, size: int, agrees: Callable[[], bool]) -> bool:
        """Whether a file is what was written: what this node once found so is hashed again only if it has changed."""
        if not path.is_file() or path.stat().st_size != size:
            return False
        identity, stamp = _identity(path), self._stamp(path)
        if stamp.is_file() and stamp.read_text() == identity:
            return True
        whole = agrees()
        if whole:
            self._remember(path, identity)
        return whole

    def _remember(self, path: Path, identity: str) -> None:
        """Where this cannot be written, the file is hashed at every start."""
        stamp = self._stamp(path)
        with suppress(OSError):
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.write_text(identity)

    def _stamp(self, path: Path) -> Path:
        return _stamp(self._folder, path)

    def _fetch(self, path: Path, due: str) -> None:
        """Copies what lies at the same place below the address."""
        address = f"{self.root.rstrip('/')}/{path.relative_to(self._folder).as_posix()}"
        hashed = hashlib.sha256()
        with _staged(path) as write:
            for piece in read_pieces(address):
                hashed.update(piece)
                write(piece)
            if hashed.hexdigest() != due:
                raise DataError("is not what was written (its SHA-256 differs)", address, "copy DATA there again")

    def _pixels(self, shard: Shard, decode: Decode) -> Path:
        """The pixels of all images and, behind them, their SHA-256."""
        path = _pixels_path(self._folder, shard.name)
        size = shard.images * math.prod(self.manifest.shape)
        if not self._whole(path, size + HASH_BYTES, lambda: _agrees(path, size)):
            hashed = hashlib.sha256()
            with _staged(path) as write:
                for images in self._decoded(shard, decode):
                    hashed.update(images)
                    write(images)
                write(hashed.digest())
            self._remember(path, _identity(path))
        return path

    def _decoded(self, shard: Shard, decode: Decode) -> Iterator[bytes]:
        table = self._staged_index(shard) if self.remote else read_index(Path(self.root), shard)
        path = self._tar(shard)
        tar = np.memmap(path, np.uint8, "r")
        for start in range(0, len(table), DECODED_AT_ONCE):
            rows = table[start : start + DECODED_AT_ONCE]
            yield decode([tar[at : at + length].tobytes() for at, length, _ in rows]).tobytes()
        if self.remote:
            path.unlink()


def staged(folder: Path, name: str) -> list[Path]:
    """All files that a data set's part of the cache may hold of a shard, each with the word that it was found whole."""
    files = [place(folder, name) for place in (tar_path, index_path, _pixels_path)]
    return [path for file in files for path in (file, _stamp(folder, file))]


@contextmanager
def unused(folder: Path, name: str) -> Iterator[bool]:
    """Whether nobody on this node holds a shard or stages it, and nobody does while the block lasts: they wait."""
    with ExitStack() as stack:
        try:
            for kind in (HOLDERS, TURNS):
                stack.enter_context(alone(folder / kind / name))
        except UserError:
            free = False
        else:
            free = True
        yield free


def _pixels_path(folder: Path, name: str) -> Path:
    return folder / "pixels" / f"{name}.raw"


def _stamp(folder: Path, path: Path) -> Path:
    return folder / WHOLE / path.name


def _identity(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size} bytes, {stat.st_mtime_ns} ns, inode {stat.st_ino}"


def _agrees(path: Path, size: int) -> bool:
    data = np.memmap(path, np.uint8, "r").data
    return hashlib.sha256(data[:size]).digest() == data[size:]


@contextmanager
def _staged(path: Path) -> Iterator[Callable[[bytes], object]]:
    """Writes a file of the cache, whole or not at all; what killed processes began goes.

    Raises: DataError if there is no room.
    """
    try:
        for part in path.parent.glob(f".{path.name}.*.part"):
            part.unlink()
        with atomic(path) as file:
            yield file.write
    except OSError as error:
        raise DataError(
            f"cannot be written ({error.strerror})", str(path), "make room or name another cache folder"
        ) from None

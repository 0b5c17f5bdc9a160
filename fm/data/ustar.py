"""Tar files whose bytes depend on nothing but names and contents: POSIX ustar headers, time 0, owner 0.

webdataset's own writer stamps the time and adds 2 KiB of PAX headers to each sample, which some readers cannot read.
"""

import hashlib
import tarfile
from typing import BinaryIO

BLOCK = 512


class UstarWriter:
    """Appends members to an open file and hashes what it writes; `bytes` is the length so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash, self.bytes = file, hashlib.sha256(), 0

    def add(self, name: str, data: bytes) -> int:
        """Appends a regular file; returns the offset of its data in the tar."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._write(info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict"))
        start = self.bytes
        self._write(data + bytes(-len(data) % BLOCK))
        return start

    def close(self) -> str:
        """Writes the two empty blocks that end a tar; returns the SHA-256 of the whole."""
        self._write(bytes(2 * BLOCK))
        return self._hash.hexdigest()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.bytes += len(data)

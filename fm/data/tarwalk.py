"""Tar archives read in place, also one inside another: where each member's bytes lie, and nothing kept in memory.

The standard library's reader keeps every header it has met, takes a damaged header in the middle for the end, and does
not miss the end of an archive that was cut between two members.
"""

import tarfile
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, NamedTuple

BLOCK = tarfile.BLOCKSIZE
END = bytes(BLOCK)
BLANKS = sum(b" " * 8)  # what a header's checksum counts for its own field
MAX_EXTENSION_BYTES = 1024**2  # of a long name or a PAX header


class Damaged(Exception):
    """What is wrong with an archive, and at which byte of the file."""


class Member(NamedTuple):
    """A file of an archive: its bytes lie at offset, if it is plain (no link, no device, not sparse)."""

    name: str
    offset: int
    length: int
    plain: bool

    @property
    def fault(self) -> str:
        """Why it is left out unread, a reason of `fm.data.decode.REASONS`; empty: it is not."""
        if not self.plain:
            return "not-a-file"
        return "unsafe-name" if self.name.startswith("/") or ".." in self.name.split("/") else ""


def walk(file: IO[bytes], start: int, end: int) -> Iterator[Member]:
    """The members of the archive that lies in bytes start to end of a file that can seek; folders are left out.

    Raises: Damaged, when all members before the damage have been given.
    """
    position, name, extra = start, "", {}
    while (header := _block(file, position, end)) != END:
        info = _parse(header, position)
        data = position + BLOCK
        if info.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            body = _extension(file, data, info.size, end)
            if info.type == tarfile.XHDTYPE:
                extra = _records(body, position)
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                name = body.rstrip(b"\0").decode("utf-8", "surrogateescape")
            position = _behind(data, info.size)
            continue
        member = _member(info, file, data, end, extra, name)
        name, extra = "", {}
        position = _behind(member.offset, member.length)
        if not info.isdir():
            yield member


def _block(file: IO[bytes], position: int, end: int) -> bytes:
    file.seek(position)
    block = file.read(BLOCK) if position + BLOCK <= end else b""
    if len(block) < BLOCK:
        raise Damaged(f"ends early at byte {end:,}")
    return block


def _parse(header: bytes, position: int) -> tarfile.TarInfo:
    if plain := _plain(header):
        return plain
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:  # a number that is none: ValueError
        raise Damaged(f"{error} at byte {position:,}") from None
    if info.size < 0:
        raise Damaged(f"negative size at byte {position:,}")
    return info


def _plain(header: bytes) -> tarfile.TarInfo | None:
    """A regular file's sound header without prefix, in a fifth of the standard library's time; None for any other."""
    length, checksum = header[124:135], header[148:154]
    regular = header[156:157] == tarfile.REGTYPE and not header[345]  # where a prefix would begin
    if not regular or not (length + checksum).isdigit() or header[135] not in b" \0" or header[154]:
        return None
    total = sum(header.translate(None, b"\0")) - sum(header[148:156]) + BLANKS  # most of it is zeros
    with suppress(ValueError):  # an 8 or a 9
        if total == int(checksum, 8):
            info = tarfile.TarInfo(header[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape"))
            info.size = int(length, 8)
            return info
    return None


def _member(info: tarfile.TarInfo, file: IO[bytes], data: int, end: int, extra: dict[str, str], name: str) -> Member:
    name = extra.get("path", name or info.name)
    if info.type == tarfile.GNUTYPE_SPARSE and _block(file, data - BLOCK, end)[482]:
        while _block(file, data, end)[504]:  # the map of its holes goes on
            data += BLOCK
        data += BLOCK
    stored = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES  # links, folders and devices have no bytes
    try:
        length = int(extra.get("size", info.size)) if stored else 0
    except ValueError:
        length = -1
    if length < 0:
        raise Damaged(f"size of member {name} that is none at byte {data:,}")
    if data + length > end:
        raise Damaged(f"member {name} ends early at byte {end:,}")
    holes = info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in extra)
    return Member(name, data, length, plain=info.isreg() and not holes)


def _behind(data: int, length: int) -> int:
    return data + -(-length // BLOCK) * BLOCK


def _extension(file: IO[bytes], data: int, length: int, end: int) -> bytes:
    if length > MAX_EXTENSION_BYTES or data + length > end:
        raise Damaged(f"header of {length:,} bytes at byte {data:,}")
    file.seek(data)
    return file.read(length)


def _records(body: bytes, position: int) -> dict[str, str]:
    """The `length key=value` lines of a PAX header."""
    found = {}
    while body:
        digits, _, _ = body.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        record = body[len(digits) + 1 : length]
        if not record.endswith(b"\n"):
            raise Damaged(f"bad extended header at byte {position:,}")
        key, _, value = record[:-1].decode("utf-8", "surrogateescape").partition("=")
        found[key] = value
        body = body[length:]
    return found

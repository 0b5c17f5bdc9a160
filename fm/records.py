"""What happened when, as append-only JSON lines: the truth that MLflow and Prefect mirror.

One line is one report of one process. A kill at any byte leaves at most one torn last line, which readers skip and the
next writer removes.
"""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fm.files import atomic, patiently, writable_folder


class Recorder:
    """Appends rows to ROOT/<name>.jsonl; for one writer at a time."""

    def __init__(self, root: Path | str, name: str = "train") -> None:
        self.path = _file(root, name)
        writable_folder(self.path.parent)
        self.bytes = _whole(self.path)

    def write(self, images_seen: int, time: float, **values: Any) -> None:
        """One row at `images_seen` and Unix time `time` in seconds; on the disk when the call returns.

        Raises: ValueError for NaN and infinity, which JSON has no words for; UserError if the disk refuses for longer
        than a moment.
        """
        line = json.dumps({"images_seen": images_seen, "time": time, **values}, allow_nan=False) + "\n"
        patiently(lambda: self._append(line.encode()), "a record", self.path)

    def _append(self, line: bytes) -> None:
        with open(self.path, "ab", buffering=0) as file:
            # Drops what a full disk or a kill left of a line, onto which this one would be glued.
            file.truncate(min(self.bytes, file.tell()))
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
            self.bytes = file.tell()

    def cut(self, images_seen: int) -> int:
        """Drops the rows past `images_seen`, which a resumed run writes again -> the damaged lines, dropped too."""
        lines = list(_lines(self.path))
        kept = b"".join(line for line, row in lines if row and row["images_seen"] <= images_seen)

        def replace() -> None:
            with atomic(self.path) as file:
                file.write(kept)

        if len(kept) < self.bytes:
            patiently(replace, "the records", self.path)
        self.bytes = len(kept)
        return sum(row is None for _, row in lines)


def read(root: Path | str, after: int = 0, name: str = "train") -> list[dict[str, Any]]:
    """The rows past `after` images seen, in the order written, damaged lines left out; none if nothing was recorded."""
    return [row for _, row in _lines(_file(root, name)) if row and row["images_seen"] > after]


def _file(root: Path | str, name: str) -> Path:
    return Path(root) / f"{name}.jsonl"


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Each whole line with its row, None for one that is no longer what was written."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line, _row(line)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
        return row if isinstance(row["images_seen"], int) and isinstance(row["time"], int | float) else None
    except (ValueError, KeyError, TypeError):
        return None


def _whole(path: Path) -> int:
    """Bytes of the file's whole lines."""
    return path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0

"""What happened when, as append-only JSON lines: the truth that MLflow and Prefect mirror.

One line is one report of one process. A kill at any byte leaves at most one torn last line, which readers skip and the
next writer removes.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fm.files import atomic, writable_folder


class Recorder:
    """Appends rows to ROOT/<name>.jsonl; for one writer at a time."""

    def __init__(self, root: Path | str, name: str = "train") -> None:
        self.path = _file(root, name)
        writable_folder(self.path.parent)
        _mend(self.path)

    def write(self, images_seen: int, time: float, **values: Any) -> None:
        """One row at `images_seen` and Unix time `time` in seconds; on the disk when the call returns.

        Raises: ValueError for NaN and infinity, which JSON has no words for.
        """
        line = json.dumps({"images_seen": images_seen, "time": time, **values}, allow_nan=False) + "\n"
        with open(self.path, "ab", buffering=0) as file:
            file.write(line.encode())
            os.fsync(file.fileno())

    def cut(self, images_seen: int) -> None:
        """Drops the rows past `images_seen`: a run resumed from there writes them again."""
        kept = [line for line, row in _rows(self.path) if row["images_seen"] <= images_seen]
        with atomic(self.path) as file:
            file.writelines(kept)


def read(root: Path | str, after: int = 0, name: str = "train") -> list[dict[str, Any]]:
    """The rows past `after` images seen, in the order written; none if nothing was recorded yet."""
    return [row for _, row in _rows(_file(root, name)) if row["images_seen"] > after]


def _file(root: Path | str, name: str) -> Path:
    return Path(root) / f"{name}.jsonl"


def _rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    if not path.exists():
        return
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line, json.loads(line)


def _mend(path: Path) -> None:
    """Removes a torn last line, onto which the next row would be glued."""
    if not path.exists():
        return
    whole = path.read_bytes().rfind(b"\n") + 1
    os.truncate(path, whole)

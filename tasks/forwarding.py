"""What the workers of a training print into RUN/logs, line by line as Prefect's log of the run.

The workers' own lines do not reach Prefect: this process reads the files that they write. Only so many at a time; where
they write faster, the file is named.
"""

import time
from collections.abc import Callable
from pathlib import Path

LINES = 20  # of each rank at a time
BYTES = 64 * 1024  # read of each file at a time
LONGEST = 1000  # characters of a line


class Tails:
    """The ends of RUN/logs/rank-N.log, from where they stood when this was made."""

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self.folder, self.tell = folder, tell
        self.heard = time.monotonic()  # when a worker last said something
        self.places = {file: file.stat().st_size for file in self._files()}
        self.cut: dict[Path, bytes] = {}  # the beginning of a line whose end is still to come

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("rank-*.log"), key=lambda file: (len(file.name), file.name))

    @property
    def silent_s(self) -> float:
        """For how long no worker has said anything."""
        return time.monotonic() - self.heard

    def forward(self, last: bool = False) -> None:
        """Tells the lines that have come since; at the `last` time also one without an end."""
        for file in self._files():
            try:
                lines, left_out = self._new(file, last)
            except OSError:
                continue  # storage that is away for a moment; the next look reads it
            if lines:
                self.heard = time.monotonic()
            rank = file.stem.removeprefix("rank-")
            for line in lines:
                self.tell(f"rank {rank}: {line[:LONGEST]}")
            if left_out:
                self.tell(f"rank {rank}: {left_out} more, in {file}")

    def _new(self, file: Path, last: bool) -> tuple[list[str], str]:
        """The first lines that are new, and how much more there is."""
        size, place = file.stat().st_size, self.places.get(file, 0)
        if size < place:  # another file under this name
            place = 0
            self.cut.pop(file, None)
        with open(file, "rb") as log:
            log.seek(place)
            data = self.cut.pop(file, b"") + log.read(BYTES)
            skipped = max(0, size - log.tell())
        self.places[file] = size
        *whole, rest = data.split(b"\n")
        if skipped:
            rest = b""
        elif last and rest:
            whole, rest = [*whole, rest], b""
        self.cut[file] = rest
        lines = [line.decode("utf-8", "replace") for line in whole if line.strip()]
        more = len(lines) - LINES
        if skipped:
            return lines[:LINES], f"{max(0, more):,} lines and {skipped:,} bytes"
        return lines[:LINES], f"{more:,} lines" if more > 0 else ""

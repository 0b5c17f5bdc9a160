"""Around the work of one worker of a training: its log, its versions, and its errors told to the driver."""

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from fm.errors import SettingsError, UserError
from fm.files import write_json
from fm.lineage import differences, versions
from fm.runs import joined, sent


def logs_of(run: Path) -> Path:
    """Where the workers of a training leave what they print, a file for each rank."""
    return run.resolve() / "logs"


class Member(NamedTuple):
    """One worker of a training: its rank, how many there are, and the address of its machine."""

    rank: int
    size: int
    address: str


@dataclass(frozen=True)
class Work:
    """The work of one worker; an error that the user must mend is left in RUN/.ray for the driver to find.

    What the worker prints goes into RUN/logs, a file for each rank, its errors too, for whoever asks what it died of.
    """

    work: Callable[[dict[str, Any]], None]
    member: Callable[[], Member]
    run: str  # folder or address
    versions: dict[str, str]

    def __call__(self, config: dict[str, Any]) -> None:
        rank, size, address = self.member()
        run = joined(self.run)
        logs_of(run).mkdir(parents=True, exist_ok=True)
        with open(logs_of(run) / f"rank-{rank}.log", "ab") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
        sys.stderr.write(f"{datetime.now():%F %T} rank {rank} of {size} on {address}, process {os.getpid()}\n")
        try:
            if differing := differences(versions(), self.versions):
                what = f"differs from where the run was started: {', '.join(differing)}"
                raise SettingsError(what, address, "install the same versions on all nodes")
            self.work(config)
        except BaseException as error:
            traceback.print_exc()
            if isinstance(error, UserError):
                told = {"kind": type(error).__name__, "what": error.what, "where": error.where, "mend": error.mend}
                write_json(run / ".ray" / f"error-{os.getpid()}.json", told)
            raise
        finally:
            sent(self.run)

"""Around the work of one worker of a training: its log, its versions, and its errors told to the driver."""

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fm.errors import SettingsError, UserError
from fm.files import write_json
from fm.lineage import differences, versions


def logs_of(run: Path) -> Path:
    """Where the workers of a training leave what they print, a file for each rank."""
    return run.resolve() / "logs"


@dataclass(frozen=True)
class Work:
    """The work of one worker; an error that the user must mend is left in the scratch folder for the driver to find.

    What the worker prints goes into a file of its rank in `logs`, its errors too, for whoever asks what it died of.
    """

    work: Callable[[dict[str, Any]], None]
    scratch: Path
    logs: Path
    versions: dict[str, str]

    def __call__(self, config: dict[str, Any]) -> None:
        from ray.train import get_context
        from ray.util import get_node_ip_address

        rank = get_context().get_world_rank()
        self.logs.mkdir(parents=True, exist_ok=True)
        with open(self.logs / f"rank-{rank}.log", "ab") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
        who = f"rank {rank} of {get_context().get_world_size()}"
        sys.stderr.write(f"{datetime.now():%F %T} {who} on {get_node_ip_address()}, process {os.getpid()}\n")
        try:
            if differing := differences(versions(), self.versions):
                where, mend = get_node_ip_address(), "install the same versions on all nodes"
                raise SettingsError(f"differs from where the run was started: {', '.join(differing)}", where, mend)
            self.work(config)
        except BaseException as error:
            traceback.print_exc()
            if isinstance(error, UserError):
                told = {"kind": type(error).__name__, "what": error.what, "where": error.where, "mend": error.mend}
                write_json(self.scratch / f"error-{os.getpid()}.json", told)
            raise

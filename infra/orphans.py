"""Flow runs whose worker has died: they go on and report to Prefect, but its Cancel asked the worker that is no more.

So the supervisor carries it out. Runs of a living worker are that worker's affair.
"""

import urllib.error
from typing import TYPE_CHECKING, Any

from infra import access, processes
from infra.services import ask
from infra.state import Record

if TYPE_CHECKING:
    import psutil

RUN = "PREFECT__FLOW_RUN_ID"
"""In the environment of a flow run's process, and inherited by what that starts."""
GRACE_S = 30.0


def cancel(record: Record, api: str) -> list[str]:
    """Ends those that Prefect was asked to cancel, and tells Prefect; returns their ids.

    Raises: OSError, ValueError if Prefect cannot be asked.
    """
    wanted = {run: process for run, process in orphans(record).items() if _state(api, run) == "CANCELLING"}
    for run, process in wanted.items():
        processes.stop([process], GRACE_S)  # what it started it ends itself, and leaves with a checkpoint
        _tell(api, run, {"type": "CANCELLED", "message": "Cancelled after its worker had died."})
    return list(wanted)


def orphans(record: Record) -> dict[str, "psutil.Process"]:
    """The processes of this state folder's flow runs that are no children of its worker, by the run's id."""
    import psutil

    worker = record.processes.get("worker")
    of_worker = {process.pid for process in processes.belonging(record.state, [worker] if worker else [])}
    runs: dict[int, str] = {}
    found: dict[int, psutil.Process] = {}
    for process in processes.belonging(record.state, marked=True):
        try:
            runs[process.pid], found[process.pid] = process.environ().get(RUN, ""), process
        except psutil.Error:
            continue
    return {
        run: found[pid]
        for pid, run in runs.items()
        if run and pid not in of_worker and runs.get(_parent(found[pid])) != run
    }


def _parent(process: "psutil.Process") -> int:
    import psutil

    try:
        return process.ppid()
    except psutil.Error:
        return 0


def _state(api: str, run: str) -> str:
    """The type of the run's state; empty for one that was deleted in Prefect."""
    try:
        return ask(f"{api}/flow_runs/{run}", headers=access.prefect_login())["state"]["type"]
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return ""
        raise


def _tell(api: str, run: str, state: dict[str, Any]) -> None:
    ask(f"{api}/flow_runs/{run}/set_state", {"state": state, "force": True}, access.prefect_login())

"""The process that keeps the set of `fm up` whole: a service that ends is started again, unless it always ends soon.

It belongs to the set: `fm up` starts it with the others, `fm down` stops it first. What is alive but silent it leaves
alone, for nobody can tell that from slow: `fm status` shows it. It also cancels, where Prefect is asked to, flow runs
whose worker has died. What it did stands in its log.
"""

import http.client
import os
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from infra import local, orphans, processes
from infra.access import unsaid
from infra.processes import Started
from infra.services import SUPERVISOR, LoginRefused, Service, Services, beat, healthy
from infra.state import Record, held

TICK_S = 1.0
QUICK_S = 60.0
"""A service that ends sooner after its start has not recovered."""
PAUSES_S = (0.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Before the starts after one, two, ... quick ends in a row; then it is given up. A minute's fault is waited out."""

RETRY_S = 5.0
"""Between two tries to start the same, where one could not even be begun; and between looks for orphans."""


@dataclass
class Watched:
    """What is known of one service: the process that was last seen to end, and how often in a row that was quick."""

    ended: Started | None = None
    quick: int = 0
    due: float = 0.0
    """When it may be started again, on the monotonic clock."""
    again: Started | None = None
    """The process that was started in its place."""
    well: bool = True
    """Whether that one was seen healthy."""


def supervise(state: Path) -> None:
    """Until the record of the state folder names another supervisor, or none."""
    watched: dict[str, Watched] = defaultdict(Watched)
    named, orphans_due = False, 0.0
    while True:
        record = Record.load(state)
        me = record.processes.get(SUPERVISOR)
        if me and me.pid == os.getpid():
            named = True
            beat(state).touch()
            look(record, watched)
            if time.monotonic() >= orphans_due:
                cancel_orphans(record)
                orphans_due = time.monotonic() + RETRY_S
        elif named:
            return
        time.sleep(TICK_S)


def look(record: Record, watched: dict[str, Watched]) -> None:
    """Once over all services: notes what has ended, starts what is due, and says what is well again."""
    known = local.services(record.state, record.ports)
    for name, one in record.processes.items():
        it = watched[name]
        if name == SUPERVISOR:
            continue
        if one.process() is None:
            if it.ended != one:
                note_end(record, name, it, one)
            if it.quick <= len(PAUSES_S) and time.monotonic() >= it.due and can_start(known, known[name], record):
                it.again, it.well = started_again(record.state, name, one), False
                it.due = time.monotonic() + RETRY_S
        elif it.again == one and not it.well and well(known[name], one):
            say(f"{name} (pid {one.pid}) is healthy")
            it.well = True


def cancel_orphans(record: Record) -> None:
    try:
        for run in orphans.cancel(record, Services.at(record.state, record.ports).prefect_api):
            say(f"flow run {run}, whose worker had died, is cancelled")
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return  # Prefect is away: the next look asks again


def note_end(record: Record, name: str, it: Watched, one: Started) -> None:
    lived = time.time() - one.started
    it.quick = it.quick + 1 if lived < QUICK_S and one == it.again else 1  # what `fm up` started counts anew
    it.ended = one
    last = processes.last_line(record.log(name))
    say(f"{name} (pid {one.pid}) ended after {lived:.0f} s; its log ends: {last}")
    if it.quick > len(PAUSES_S):
        say(
            f"{name} ended {it.quick} times in a row within {QUICK_S:.0f} s of its start: given up;"
            f" see {record.log(name)}, mend the cause, and start it with `fm up`"
        )
    else:
        it.due = time.monotonic() + PAUSES_S[it.quick - 1]


def can_start(known: dict[str, Service], service: Service, record: Record) -> bool:
    """Whether what it needs is there: a worker without its server would only end again."""
    needed = [(known[name], record.processes.get(name)) for name in service.after]
    return all(one and one.process() and well(other, one) for other, one in needed)


def started_again(state: Path, name: str, ended: Started) -> Started | None:
    """The process in place of the one that has ended; None if somebody else is changing the set, or has changed it.

    A child does it and ends, so that what it started is no child of this process and not stopped with it.
    """
    if child := os.fork():
        os.waitpid(child, 0)
        one = Record.load(state).processes.get(name)
        return one if one != ended else None
    try:
        with held(state, wait=False) as record:
            if record.kept and record.processes.get(name) == ended:
                local.start_again(record, name)
                say(f"{name} started again (pid {record.processes[name].pid})")
    except BlockingIOError:
        pass
    except Exception as error:
        say(f"{name} could not be started: {error}")
    finally:
        os._exit(0)


def well(service: Service, one: Started) -> bool:
    try:
        return healthy(service, one.started)
    except LoginRefused:
        return False


def say(line: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), unsaid(line), flush=True)


if __name__ == "__main__":
    supervise(Path(sys.argv[1]))

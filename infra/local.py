"""The services of this machine as one set: start what is missing, say how it is, stop all. Two at once make one set.

`fm up` keeps the set until `fm down`; `embedded` holds Prefect and MLflow for as long as one command needs them.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fm.errors import SettingsError, UserError, member
from infra import access, processes, stores
from infra.access import HOST
from infra.processes import Started
from infra.services import SUPERVISOR, LoginRefused, Service, Services, healthy, services
from infra.state import Ports, Record, held, make_folders, unlink_short_folder

START_S = "FM_START_S"
STOP_S = 15.0


@dataclass(frozen=True)
class ServiceState:
    """One service as it is now; `since` in unix seconds, memory with all its child processes.

    `word` says why it is not healthy, where that is known.
    """

    name: str
    address: str
    pid: int
    healthy: bool
    since: float
    memory_bytes: int
    word: str = ""


def up(state: Path, ports: Ports | None = None, workers: bool = True, ray: bool = True) -> Services:
    """Starts what does not run yet of Prefect, MLflow, a Ray head and a Prefect worker, and keeps it until `down`.

    A supervisor starts again what ends meanwhile. A running set is joined at the ports it has. Raises: UserError if a
    port is taken, a path is too long, or a service ends or stays silent while it starts; what this call started is then
    stopped again.
    """
    names = ["prefect", "mlflow", *(["ray"] if ray else []), *(["worker"] if workers else []), SUPERVISOR]
    with held(state.resolve()) as record:
        check_same(record, ports or Ports())
        start_missing(record, names, ports or Ports())
        record.kept = True
        record.save()
        return addresses(record)


@contextmanager
def embedded(state: Path, ports: Ports | None = None) -> Iterator[Services]:
    """Prefect and MLflow for the time of the block: those of `fm up` if it runs, else started, and stopped at the end.

    Ctrl-C, SIGTERM and a closed terminal end the block, not the process at once. Raises: as `up`.
    """
    me = processes.this_process()
    with signals_as_exits():
        with held(state.resolve()) as record:
            start_missing(record, ["prefect", "mlflow"], ports or Ports())
            record.holders.append(me)
            record.save()
            found = addresses(record)
        try:
            yield found
        finally:
            with held(state.resolve()) as record:
                if me in record.holders:  # `down` lets go for all
                    record.holders.remove(me)
                record.holders = [one for one in record.holders if one.process()]
                record.save()
                if not record.kept and not record.holders:
                    stop_all(record)


def down(state: Path) -> list[str]:
    """Stops all that was started for a state folder, flow runs of its worker included; returns the services' names."""
    if not state.is_dir():
        return []
    with held(state.resolve()) as record:
        names = [name for name, one in in_order(record).items() if one.process()]
        stop_all(record)
        return names[::-1]


def status(state: Path) -> list[ServiceState]:
    """Each service that was started and not stopped, asked now."""
    record = Record.load(state.resolve())
    known = services(record.state, record.ports)
    return [_state_of(record, name, one, known[name]) for name, one in in_order(record).items()]


def _state_of(record: Record, name: str, one: Started, service: Service) -> ServiceState:
    word = "" if (running := one.process() is not None) else "has ended"
    try:
        well = running and healthy(service, one.started)
    except LoginRefused:
        well, word = False, "wants another login than this shell's"
    return ServiceState(
        name=name,
        address=service.url,
        pid=one.pid,
        healthy=well,
        since=one.started,
        memory_bytes=processes.memory_bytes(processes.belonging(record.state, [one])),
        word=word,
    )


def log(state: Path, name: str) -> Path:
    """The log of a service.

    Raises: SettingsError for an unknown name, UserError if it was never started.
    """
    record = Record.load(state.resolve())
    member(name, services(record.state, record.ports), "service")
    if not record.log(name).exists():
        raise UserError("has no log yet", where=name, mend="start it with `fm up`")
    return record.log(name)


def in_order(record: Record) -> dict[str, Started]:
    """What was started, in the order of the services: one that was started again has not moved to the end."""
    return {name: record.processes[name] for name in services(record.state, record.ports) if name in record.processes}


def addresses(record: Record) -> Services:
    return Services.at(record.state, record.ports, ray="ray" in record.processes)


def start_s(environment: Mapping[str, str] = os.environ) -> float:
    """For how many seconds services that start may be silent.

    Raises: SettingsError if the environment has something else than a time.
    """
    given = environment.get(START_S) or "180"
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise SettingsError(f"{given!r} is no time", START_S, "give seconds, 600 for instance")
    return seconds


def start_missing(record: Record, names: list[str], ports: Ports) -> None:
    """Starts those of the named services that do not run, side by side, and waits until all of them are healthy."""
    limit_s = start_s()
    forget_dead(record, names)
    fresh = not record.processes
    if fresh:
        access.check(ports.host)
        record.ports, record.logins = ports, access.logins(ports.host)
    stores.check()
    known = services(record.state, record.ports)
    missing = [name for name in names if name not in record.processes]
    if missing and not fresh:
        check_logins(record)
    for name in missing:
        check_ports(name, known[name])
    try:
        make_folders(record.state, given_token=fresh and "ray" in record.logins)
        wait_healthy(record, {name: known[name] for name in names}, limit_s)
    except BaseException:
        stop_services(record, missing)
        if not record.processes:
            unlink_short_folder(record.state)
        raise


def check_logins(record: Record) -> None:
    """Raises: UserError if what joins a running set would not ask for the logins that the set asks for."""
    access.check(record.ports.host)
    if lost := [name for name in record.logins if name not in access.logins(record.ports.host)]:
        mend = "set what `fm up` was given, or wait until the supervisor has started it"
        raise UserError("asks for a login in this set, and this shell has none to give it", " and ".join(lost), mend)


def check_same(record: Record, ports: Ports) -> None:
    """Raises: UserError if what runs is not what is asked for now: on another host, or without a login."""
    if not any(one.process() for one in record.processes.values()):
        return
    mend = "`fm down` first"
    if ports.host not in (HOST, record.ports.host):
        raise UserError(f"the services run already, on {record.ports.host}", f"--host {ports.host}", mend)
    if new := [name for name in access.logins() if name not in record.logins]:
        raise UserError("runs already, and asks for no login", " and ".join(new), mend)


def check_startable(state: Path, ports: Ports) -> None:
    """Whether Prefect and MLflow run or can be started at these ports, without starting anything.

    Raises: UserError if a port is taken.
    """
    record = Record.load(state.resolve())
    if not any(one.process() for one in record.processes.values()):
        known = services(record.state, ports)
        for name in ("prefect", "mlflow"):
            check_ports(name, known[name])


def forget_dead(record: Record, names: list[str]) -> None:
    """Strikes out what has ended: of a set that is alive only the named services, the others are its supervisor's."""
    alive = any(one.process() for one in record.processes.values())
    for name, one in list(record.processes.items()):
        if one.process() is None and (name in names or not alive):
            forget(record, name)


def forget(record: Record, name: str) -> None:
    """Strikes out a service that has ended, with what it left."""
    one = record.processes.pop(name)
    # A flow run outlives its worker and still reports to Prefect; what a dead server leaves is debris.
    if name != "worker":
        processes.stop(processes.belonging(record.state, [one]), STOP_S)


def start_again(record: Record, name: str) -> None:
    """Starts a service that has ended in its own place; whether it gets healthy is for the caller to see."""
    forget(record, name)
    begin(record, name, services(record.state, record.ports)[name])


def begin(record: Record, name: str, service: Service) -> None:
    given = (service.command, service.environment, record.log(name), record.state)
    record.processes[name] = processes.start(*given, without=service.without, private=service.private)
    record.save()


def check_ports(name: str, service: Service) -> None:
    for port in service.ports:
        if processes.port_in_use(port):
            raise UserError(
                f"port {port} is used by {processes.port_owner(port)}",
                where=name,
                mend="stop it, or choose other ports with `--port-base N`",
            )


def wait_healthy(record: Record, wanted: dict[str, Service], limit_s: float) -> None:
    waiting, deadline = dict(wanted), time.monotonic() + limit_s
    again: set[str] = set()
    while waiting:
        for name, service in list(waiting.items()):
            if name not in record.processes:
                if not any(other in waiting for other in service.after):
                    begin(record, name, service)
            elif answers(record, name, service):
                del waiting[name]
            elif record.processes[name].process() is None:
                if name in again:
                    raise failure(record, name, "ended while it started")
                again.add(name)  # on a busy machine Ray gives up its own start after 30 s
                del record.processes[name]
            elif time.monotonic() > deadline:
                raise failure(record, name, f"does not answer after {limit_s:g} s ({START_S}, more on a busy machine)")
        time.sleep(0.1)


def answers(record: Record, name: str, service: Service) -> bool:
    try:
        return healthy(service, record.processes[name].started)
    except LoginRefused:
        raise UserError(
            "asks for another login than this shell has",
            where=name,
            mend="set PREFECT_API_AUTH_STRING, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD as for `fm up`",
        ) from None


def failure(record: Record, name: str, what: str) -> UserError:
    path = record.log(name)
    return UserError(what, where=name, mend=f"see {path}, which ends: {access.unsaid(processes.last_line(path))}")


def stop_services(record: Record, names: list[str]) -> None:
    """Stops some of the services, the supervisor first, then the worker, which without its server ignores SIGTERM."""
    running = {name: record.processes[name] for name in names if name in record.processes}
    for group in ([SUPERVISOR], ["worker"], [name for name in running if name not in (SUPERVISOR, "worker")]):
        processes.stop(processes.belonging(record.state, [running[n] for n in group if n in running]), STOP_S)
    for name in running:
        del record.processes[name]
    record.save()


def stop_all(record: Record) -> None:
    """Stops all that bears the state folder's mark: supervisor; flow runs, while Prefect hears it; worker; servers."""
    stop_services(record, [SUPERVISOR])
    recorded = record.processes
    servers = [one for name, one in recorded.items() if name != "worker"]
    working = set(processes.belonging(record.state, recorded.values(), marked=True))
    working -= set(processes.belonging(record.state, servers))
    worker = {
        process for process in working if "worker" in recorded and processes.session(process) == recorded["worker"].pid
    }
    processes.stop(working - worker, STOP_S)
    processes.stop(worker, STOP_S)
    processes.stop(processes.belonging(record.state, servers, marked=True), STOP_S)
    record.processes.clear()
    record.holders.clear()
    record.kept = False
    record.save()
    unlink_short_folder(record.state)


@contextmanager
def signals_as_exits() -> Iterator[None]:
    """SIGTERM and SIGHUP raise SystemExit, once, so that `finally` is reached (in the main thread only)."""

    def leave(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

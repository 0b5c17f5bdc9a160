"""Background processes of a state folder: start one in its own session, know it again, stop it with all it started.

Which services there are is `infra/services.py`'s affair, in which order they come and go `infra/local.py`'s.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

MARK = "FM_STATE_OF_SERVICES"
"""In the environment of all that is started for a state folder, and inherited by what that starts in turn."""

CLOCK_STEP_S = 2.0
"""psutil derives a start time from the boot time, which moves when the clock is set."""


@dataclass(frozen=True)
class Started:
    """A process as it was started; the start time tells it from another one that was given its pid later."""

    pid: int
    started: float

    def process(self) -> "psutil.Process | None":
        """The running process, or None if it has ended (a zombie has)."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            return process if alive(process) and self._is(process) else None
        except psutil.Error:
            return None

    def owns_session(self) -> bool:
        """Whether the session of this number is still ours: its leader is the process itself, or has ended."""
        import psutil

        try:
            return self._is(psutil.Process(self.pid))
        except psutil.Error:
            return True  # the system gives no pid out again while a session bears it

    def _is(self, process: "psutil.Process") -> bool:
        return abs(process.create_time() - self.started) < CLOCK_STEP_S


def this_process() -> Started:
    import psutil

    return Started(os.getpid(), psutil.Process().create_time())


def start(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    state: Path,
    without: Iterable[str] = (),
    private: bool = False,
) -> Started:
    """Starts a command in a session of its own, so that Ctrl-C in this terminal does not reach it.

    Its output goes to `log`; that of the time before stays as NAME.previous.log. It does not get the variables named
    in `without`, and what it writes is its user's alone if `private`.
    """
    import psutil

    if log.exists():
        log.replace(log.with_suffix(".previous.log"))
    given, without = {**os.environ, **environment, MARK: str(state)}, set(without)
    with open(log, "wb") as output:
        child = subprocess.Popen(
            command,
            env={name: text for name, text in given.items() if name not in without},
            umask=0o077 if private else -1,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    child.returncode = 0  # it outlives this object: no ResourceWarning, no wait
    try:
        return Started(child.pid, psutil.Process(child.pid).create_time())
    except psutil.NoSuchProcess:
        return Started(child.pid, time.time())


def belonging(state: Path, to: Iterable[Started] = (), marked: bool = False) -> list["psutil.Process"]:
    """Every living process of these sessions (if `marked`, all that bears the state folder's mark) with descendants."""
    import psutil

    sessions = {one.pid for one in to if one.owns_session()}
    found = set()
    for process in psutil.process_iter():
        try:
            ours = session(process) in sessions or (marked and process.environ().get(MARK) == str(state))
            if ours:
                found |= {process, *process.children(recursive=True)}
        except (psutil.Error, OSError):
            continue  # ended meanwhile, or another user's
    return [process for process in found if process.pid != os.getpid() and alive(process)]


def alive(process: "psutil.Process") -> bool:
    """Whether it runs; a zombie has ended, also where nobody collects it."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def session(process: "psutil.Process") -> int:
    """The pid of the process that leads this one's session, 0 if it has ended."""
    try:
        return os.getsid(process.pid)
    except OSError:
        return 0


def stop(processes: Iterable["psutil.Process"], grace_s: float) -> None:
    """SIGTERM to all, SIGKILL after the grace to those that stayed; returns when none is left."""
    import psutil

    left = all_of_them = list(processes)
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        for process in left:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        end = time.monotonic() + wait_s
        while (left := [process for process in left if alive(process)]) and time.monotonic() < end:
            time.sleep(0.05)
    psutil.wait_procs(all_of_them, timeout=0)  # collects those that were children of this process


def memory_bytes(processes: Iterable["psutil.Process"]) -> int:
    """Memory that would be free without them: what each has for itself, not what they share with others."""
    import psutil

    total = 0
    for process in processes:
        try:
            total += process.memory_full_info().uss
        except psutil.Error:
            continue
    return total


def last_line(log: Path) -> str:
    """The last line of a log that is not blank, or "" if there is none."""
    try:
        return (log.read_text(errors="replace").rstrip().splitlines() or [""])[-1].strip()
    except OSError:
        return ""


def port_in_use(port: int) -> bool:
    """Whether someone listens on this port on 127.0.0.1 or on all interfaces."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            return True
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("", port))
        except OSError:
            return True
    return False


def port_owner(port: int) -> str:
    """`python (pid 4711)` for the process that listens on a port, `another process` if the system does not tell."""
    import psutil

    for process in psutil.process_iter():
        try:
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return f"{process.name()} (pid {process.pid})"
        except (psutil.Error, OSError):
            continue
    return "another process"

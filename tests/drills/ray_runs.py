"""Deaths under Ray and Prefect: preset tiny by the command line, one of its processes killed in the middle."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from fm.checkpoints import newest
from fm.records import read
from tests.drills.table import Result

ROOT = Path(__file__).parent.parent.parent
TRAINING = ["--preset", "tiny", "--set", "training.save_images=640", "--set", "training.total_images=6400"]


def start(run: Path, data: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "flows.cli", "train", str(data), str(run), *TRAINING, "--port-base", "29100"]
    log = open(run.parent / f"{run.name}.log", "ab")  # noqa: SIM115 - the process holds it
    return subprocess.Popen(command, cwd=run.parent, stdout=log, stderr=log, start_new_session=True)


def seen(run: Path) -> int:
    rows = read(run / "records")
    return rows[-1]["images_seen"] if rows else 0


def wait(until: Callable[[], bool], process: subprocess.Popen, limit_s: float = 300) -> None:
    deadline = time.monotonic() + limit_s
    while not until():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the run ended or hung before it could be disturbed (code {process.poll()})")
        time.sleep(0.1)


def finish(process: subprocess.Popen, run: Path) -> str:
    if process.wait(timeout=400) != 0:
        raise SystemExit(f"{run.name}: failed\n" + (run.parent / f"{run.name}.log").read_text()[-2000:])
    saved = newest(run)
    if saved is None:
        raise SystemExit(f"{run.name}: no checkpoint")
    return saved.weights


def disturbed(
    name: str, run: Path, data: Path, undisturbed: str, strike: Callable[[subprocess.Popen], subprocess.Popen]
) -> Result:
    """Trains, strikes in the middle, and waits for the end."""
    process = start(run, data)
    wait(lambda: seen(run) >= 2000, process)
    struck = time.monotonic()
    process = strike(process)
    before, checkpoint = seen(run), newest(run)  # nothing can be trained between the stroke and the new start
    wait(lambda: seen(run) > before, process)
    recovery = time.monotonic() - struck
    weights = finish(process, run)
    return Result(name, before - (checkpoint.images_seen if checkpoint else 0), recovery, weights, undisturbed)


def workers(process: subprocess.Popen) -> list[psutil.Process]:
    family = psutil.Process(process.pid).children(recursive=True)
    return [p for p in family if "RayTrainWorker" in " ".join(p.cmdline())]


def worker(run: Path, data: Path, undisturbed: str) -> Result:
    """kill -9 of one training worker; Ray Train restarts the group."""

    def strike(process: subprocess.Popen) -> subprocess.Popen:
        workers(process)[0].kill()
        return process

    return disturbed("worker killed", run, data, undisturbed, strike)


def driver(run: Path, data: Path, undisturbed: str) -> Result:
    """kill -9 of the flow's process, which is the Ray driver; the user starts the command again."""

    def strike(process: subprocess.Popen) -> subprocess.Popen:
        orphans = workers(process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        psutil.wait_procs(orphans, timeout=60)  # they train on for a moment, which is no recovery
        return start(run, data)

    return disturbed("flow process killed, started again", run, data, undisturbed, strike)


def leave(run: Path, data: Path, undisturbed: str) -> Result:
    """SIGTERM to the flow's process, as a scheduler or Prefect's cancel sends it; the user starts the command again."""

    def strike(process: subprocess.Popen) -> subprocess.Popen:
        process.terminate()
        process.wait(timeout=60)
        return start(run, data)

    return disturbed("SIGTERM to the flow process, started again", run, data, undisturbed, strike)


DRILLS = {"worker": worker, "driver": driver, "leave": leave}


def drills(names: list[str], base: Path) -> Iterator[Result]:
    base.mkdir()
    fm = [sys.executable, "-m", "flows.cli"]
    ports = ["--port-base", "29100"]
    os.environ["FM_STATE"] = str(base / "state")
    os.environ["PYTHONPATH"] = str(ROOT)
    prepare = [*fm, "prepare", "photos:?tiles=60", str(base / "data"), "--size", "16", *ports]
    subprocess.run(prepare, cwd=base, check=True, capture_output=True)
    try:
        undisturbed = finish(start(base / "undisturbed", base / "data"), base / "undisturbed")
        for name in names:
            yield DRILLS[name](base / name, base / "data", undisturbed)
    finally:
        subprocess.run([*fm, "down"], cwd=base, check=True, capture_output=True)

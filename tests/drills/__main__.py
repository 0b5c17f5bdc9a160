"""Process deaths in the middle of a run: `python -m tests.drills [worker|driver ...]`, all without a name.

Each drill trains preset tiny, kills something, and compares with a run that nothing disturbed: images lost, seconds to
recover, final weights equal to the last bit or not. Exit code 1 if a drill fails.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from fm.checkpoints import newest
from fm.records import read

ROOT = Path(__file__).parent.parent.parent
TRAINING = ["--preset", "tiny", "--set", "training.save_images=640", "--set", "training.total_images=6400"]


@dataclass(frozen=True)
class Result:
    """What a disturbed run came to; images lost are those trained twice, recovery ends where they are made up."""

    drill: str
    images_lost: int
    recovery_s: float
    weights: str


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


def disturbed(name: str, run: Path, data: Path, strike: Callable[[subprocess.Popen], subprocess.Popen]) -> Result:
    """Trains, strikes in the middle, and waits for the end."""
    process = start(run, data)
    wait(lambda: seen(run) >= 2000, process)
    struck = time.monotonic()
    process = strike(process)
    before, checkpoint = seen(run), newest(run)  # nothing can be trained between the stroke and the new start
    wait(lambda: seen(run) > before, process)
    recovery = time.monotonic() - struck
    weights = finish(process, run)
    return Result(name, before - (checkpoint.images_seen if checkpoint else 0), recovery, weights)


def workers(process: subprocess.Popen) -> list[psutil.Process]:
    family = psutil.Process(process.pid).children(recursive=True)
    return [p for p in family if "RayTrainWorker" in " ".join(p.cmdline())]


def worker(run: Path, data: Path) -> Result:
    """kill -9 of one training worker; Ray Train restarts the group."""

    def strike(process: subprocess.Popen) -> subprocess.Popen:
        workers(process)[0].kill()
        return process

    return disturbed("worker killed", run, data, strike)


def driver(run: Path, data: Path) -> Result:
    """kill -9 of the flow's process, which is the Ray driver; the user starts the command again."""

    def strike(process: subprocess.Popen) -> subprocess.Popen:
        orphans = workers(process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        psutil.wait_procs(orphans, timeout=60)  # they train on for a moment, which is no recovery
        return start(run, data)

    return disturbed("flow process killed, started again", run, data, strike)


DRILLS = {"worker": worker, "driver": driver}


def main(names: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="fm-drills-") as folder:
        base = Path(folder)
        fm = [sys.executable, "-m", "flows.cli"]
        ports = ["--port-base", "29100"]
        os.environ["FM_STATE"] = str(base / "state")
        os.environ["PYTHONPATH"] = str(ROOT)
        prepare = [*fm, "prepare", "photos:?tiles=60", str(base / "data"), "--size", "16", *ports]
        subprocess.run(prepare, cwd=base, check=True, capture_output=True)
        try:
            undisturbed = finish(start(base / "undisturbed", base / "data"), base / "undisturbed")
            results = [DRILLS[name](base / name, base / "data") for name in names or DRILLS]
        finally:
            subprocess.run([*fm, "down"], cwd=base, check=True, capture_output=True)
        print(f"{'drill':<40}{'images lost':>12}{'recovery s':>12}  weights")
        for r in results:
            same = "equal" if r.weights == undisturbed else "NOT EQUAL"
            print(f"{r.drill:<40}{r.images_lost:>12,}{r.recovery_s:>12.0f}  {same} ({r.weights[:16]})")
    failed = sum(r.weights != undisturbed for r in results)
    print(f"drills: {len(results) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

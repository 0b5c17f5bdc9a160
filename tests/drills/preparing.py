"""Deaths in the middle of a preparation: started again, also with another number of workers, it ends with the same
files. By the library in forked processes, and by the very command `fm prepare` with Ray and Prefect."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from fm.data import Preparation, open_source, write_shards
from fm.files import sha256
from fm.lineage import digest
from infra import local, processes
from infra.state import Ports
from tests.drills.ranks import FORK
from tests.drills.ray_runs import ROOT
from tests.drills.table import Result

KILLS = 20
SOURCE, SETTINGS = "photos:?tiles=1500", Preparation(size=64, shard_images=50)
COMMAND_SOURCE = "photos:?tiles=2000"
PORTS = ["--port-base", "29100"]
SHARD_IMAGES = 500  # of `fm prepare`
SLOTS = [1, 3, 5]  # of the clusters on which the command starts in turn


def contents(root: Path) -> str:
    """One hash over the names and bytes of all files of a data set."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return digest([(str(path.relative_to(root)), sha256(path)) for path in files])


def done(root: Path) -> int:
    """Shards that have their record."""
    return len(list((root / "index").glob("*-*.json")))


def begun(root: Path) -> int:
    return len(list((root / "shards").glob(".*.part")))


def wait(until: Callable[[], bool], alive: Callable[[], bool], limit_s: float = 600) -> bool:
    """Until it is so (True) or the process has ended."""
    deadline = time.monotonic() + limit_s
    while not until():
        if not alive():
            return False
        if time.monotonic() > deadline:
            raise SystemExit("hung before it could be disturbed")
        time.sleep(0.005)
    return True


def one_run(out: Path, workers: int) -> None:
    """A preparation by so many processes, in a session of its own."""
    os.setsid()
    with suppress(BrokenProcessPool), ProcessPoolExecutor(workers, FORK) as pool:
        write_shards(open_source(SOURCE), out, SETTINGS, map=pool.map)
        sys.exit(0)
    sys.exit(1)


def library(base: Path, seed: int = 0) -> Result:
    """kill -9 of all processes, or of one worker, at random moments of the whole; each start has other workers."""
    chance = random.Random(seed)
    write_shards(open_source(SOURCE), base / "whole", SETTINGS)
    out, total, lost, recoveries = base / "killed", done(base / "whole"), 0, []
    for number, place in enumerate(sorted(chance.uniform(0.0, 0.97) for _ in range(KILLS))):
        process = FORK.Process(target=one_run, args=(out, 1 + number % 7))
        before, halves, start = done(out), begun(out), time.monotonic()
        process.start()
        if wait(lambda before=before: done(out) > before, process.is_alive) and number:
            recoveries.append(time.monotonic() - start)
        if not wait(lambda place=place: done(out) >= place * total, process.is_alive):
            raise SystemExit("it ended before it could be disturbed")
        time.sleep(chance.uniform(0.0, 0.1))  # in the middle of a shard
        lost += (begun(out) - halves) * SETTINGS.shard_images  # earlier ones lie there until the end
        workers = psutil.Process(process.pid).children()
        if number % 3 == 2 and workers:
            chance.choice(workers).kill()  # and all give up
        else:
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        psutil.wait_procs(workers, timeout=60)  # forked, they hold its lock until they are gone
        if process.exitcode == 0:
            raise SystemExit("it ended in spite of a killed process")
    write_shards(open_source(SOURCE), out, SETTINGS)
    recovery_s = sum(recoveries) / len(recoveries)
    drill = f"preparation killed {KILLS} times, 1 to 7 workers"
    return Result(drill, lost, recovery_s, contents(out), contents(base / "whole"))


def command(base: Path) -> Iterator[Result]:
    """`fm prepare`: one of Ray's workers killed, the flow's process killed, Ctrl-C; then all of it, twenty times."""
    os.environ |= {"FM_STATE": str(base / "state"), "PYTHONPATH": str(ROOT)}
    try:
        if started(base / "by-command").wait() != 0:
            raise SystemExit(f"fm prepare failed\n{log(base / 'by-command')}")
        undisturbed, total = contents(base / "by-command"), done(base / "by-command")
        for name, strike in STRIKES.items():
            yield struck(name, base / strike.__name__, total, undisturbed, strike)
        kept = local.up(base / "state", Ports.from_base(29100), workers=False, ray=False)
        with heads(base / "ray", kept.environment()) as addresses:
            yield often(base / "often", total, undisturbed, addresses)
    finally:
        subprocess.run([sys.executable, "-m", "flows.cli", "down"], cwd=base, check=True, capture_output=True)


def often(base: Path, total: int, undisturbed: str, addresses: list[str], seed: int = 0) -> Result:
    """kill -9 of the command at random moments, its start included; each start is on a cluster of another size.

    A data set that gets whole before the next kill is compared, and another begun.
    """
    chance, recoveries, lost, kills = random.Random(seed), [], 0, 0
    ends: list[str] = []
    while kills < KILLS:
        out = base.with_name(f"{base.name}-{len(ends)}")
        before, halves, start = done(out), begun(out), time.monotonic()
        process = started(out, "--address", addresses[kills % len(addresses)])

        def running(process: subprocess.Popen[bytes] = process) -> bool:
            return process.poll() is None

        if kills % 5 == 4:
            time.sleep(chance.uniform(0.0, 10.0))  # while it starts
        else:
            goal = before + chance.uniform(0.0, 0.12) * total
            if wait(lambda before=before, out=out: done(out) > before, running) and before:
                recoveries.append(time.monotonic() - start)
            wait(lambda goal=goal, out=out: done(out) >= goal, running)
            time.sleep(chance.uniform(0.0, 0.5))
        if running():
            lost += max(0, begun(out) - halves) * SHARD_IMAGES
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        elif process.returncode:
            raise SystemExit(f"fm prepare failed\n{log(out)}")
        else:
            ends.append(contents(out))
        process.wait()
    out = base.with_name(f"{base.name}-{len(ends)}")
    if started(out).wait() != 0:
        raise SystemExit(f"fm prepare failed\n{log(out)}")
    ends.append(contents(out))
    final = next((end for end in ends if end != undisturbed), undisturbed)
    drill = f"fm prepare killed {KILLS} times, on {', '.join(map(str, SLOTS))} slots"
    return Result(drill, lost, sum(recoveries) / len(recoveries), final, undisturbed)


@contextmanager
def heads(folder: Path, environment: dict[str, str]) -> Iterator[list[str]]:
    """Ray clusters of SLOTS slots, by address."""
    started = []
    try:
        for place, slots in enumerate(SLOTS):
            port, temp = 29110 + 10 * place, folder / str(slots)
            start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
            start += ["--node-ip-address=127.0.0.1", f"--port={port}", f"--num-cpus={slots}"]
            start += ["--include-dashboard=false", f"--temp-dir={temp}"]
            temp.mkdir(parents=True)
            out = open(temp.with_suffix(".log"), "wb")  # noqa: SIM115 - the process holds it
            ray = subprocess.Popen(start, stdout=out, stderr=out, env=os.environ | environment, start_new_session=True)
            started.append(ray)
            if not wait(lambda port=port: processes.port_in_use(port), lambda ray=ray: ray.poll() is None):
                raise SystemExit(f"Ray does not start\n{temp.with_suffix('.log').read_text()[-2000:]}")
        yield [f"127.0.0.1:{29110 + 10 * place}" for place in range(len(SLOTS))]
    finally:
        for ray in started:
            whole = psutil.Process(ray.pid).children(recursive=True) if ray.poll() is None else []
            ray.terminate()
            for left in psutil.wait_procs(whole, timeout=20)[1]:
                left.kill()
            ray.wait()


def started(out: Path, *options: str) -> subprocess.Popen[bytes]:
    arguments = ["prepare", COMMAND_SOURCE, str(out), "--size", "64", *PORTS, *options]
    file = open(out.with_suffix(".log"), "ab")  # noqa: SIM115 - the process holds it
    run = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.Popen(run, cwd=out.parent, stdout=file, stderr=file, start_new_session=True)


def log(out: Path) -> str:
    return out.with_suffix(".log").read_text()[-2000:]


def struck(
    name: str, out: Path, total: int, undisturbed: str, strike: Callable[[subprocess.Popen[bytes]], bool]
) -> Result:
    process = started(out)
    if not wait(lambda: done(out) >= total // 3, lambda: process.poll() is None):
        raise SystemExit(f"{name}: ended before it could be disturbed\n{log(out)}")
    lost, start = begun(out) * SHARD_IMAGES, time.monotonic()
    goes_on = strike(process)
    before = done(out)
    if not goes_on:
        process = started(out)
    wait(lambda: done(out) > before, lambda: process.poll() is None)
    recovery_s = time.monotonic() - start
    if process.wait() != 0:
        raise SystemExit(f"{name}: failed\n{log(out)}")
    if goes_on and "is done again" not in out.with_suffix(".log").read_text():
        raise SystemExit(f"{name}: the retry was not said\n{log(out)}")
    return Result(name, lost, recovery_s, contents(out), undisturbed)


def working(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    found = []
    for one in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.Error):  # ended meanwhile
            if "write_shard" in " ".join(one.cmdline()):
                found.append(one)
    return found


def worker(process: subprocess.Popen[bytes]) -> bool:
    while not (there := working(process)):
        time.sleep(0.001)
    there[0].kill()
    return True


def flow(process: subprocess.Popen[bytes]) -> bool:
    orphans = working(process)
    process.kill()
    process.wait()
    psutil.wait_procs(orphans, timeout=60)  # what they still finish is no recovery
    return False


def interrupt(process: subprocess.Popen[bytes]) -> bool:
    process.send_signal(signal.SIGINT)
    process.wait(timeout=120)
    return False


STRIKES = {
    "fm prepare, a worker killed": worker,
    "fm prepare, flow process killed, started again": flow,
    "fm prepare, Ctrl-C, started again": interrupt,
}


def drills(names: list[str], base: Path) -> Iterator[Result]:
    if "shards" in names:
        yield library(base / "library")
    if "prepare" in names:
        (base / "command").mkdir()
        yield from command(base / "command")

"""Deaths under Ray and Prefect: preset tiny by the command line, one of its processes killed in the middle."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil

from fm.checkpoints import newest
from fm.lineage import digest
from fm.records import read
from fm.results import read_rows
from infra import local
from infra.services import ask
from infra.state import Ports, Record
from tests import postgresql as postgres
from tests.drills.disks import frozen, own_disk
from tests.drills.table import Result, Skipped

PORT_BASE = 29100
PORTS = ["--port-base", str(PORT_BASE)]
AWAY_S, LATE_S, FROZEN_S = 60, 10, 30
LONGER_IMAGES = 19_200  # longer than AWAY_S, on the slowest machine that this ran on
FM = [sys.executable, "-m", "flows.cli"]
ROOT = Path(__file__).parent.parent.parent
STOPS, STOPS_APART_S = 10, 0.5
EVALUATING = ["evaluate", "--solvers", "euler,midpoint,rk4", "--nfe", "16,32,64,100", "--samples", "400"]
CLOCK = ("seconds", "nll_seconds", "seal")
TRAINING = ["--preset", "tiny", "--set", "training.save_images=640", "--set", "training.total_images=6400"]


def start(run: Path, data: Path, *options: str) -> subprocess.Popen:
    return launch(run, "train", str(data), str(run), *TRAINING, *options)


def launch(run: Path, *arguments: str) -> subprocess.Popen:
    log = open(logged(run), "ab")  # noqa: SIM115 - the process holds it
    return subprocess.Popen([*FM, *arguments, *PORTS], cwd=run.parent, stdout=log, stderr=log, start_new_session=True)


def logged(run: Path) -> Path:
    return run.parent / f"{run.name}.log"


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
        raise SystemExit(f"{run.name}: failed\n" + logged(run).read_text()[-2000:])
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
    check_mirrored(run)
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


def evaluation(run: Path, data: Path, undisturbed: str) -> Result:
    """SIGTERM to an evaluation ten times, each a little later in it, and started again; the slowest stop is told."""
    alone, slowest = run.with_name("evaluated"), 0.0
    for copy in (run, alone):
        shutil.copytree(run.with_name("undisturbed"), copy)
    for stop in range(STOPS):
        process, before = launch(run, *EVALUATING, str(run)), len(logged(run).read_text())
        wait(lambda at=before: "cells, and features of" in logged(run).read_text()[at:], process)  # type: ignore[misc]
        time.sleep(stop * STOPS_APART_S)
        if process.poll() is not None:
            raise SystemExit(f"{run.name}: over before stop {stop + 1} of {STOPS}")
        struck = time.monotonic()
        process.terminate()
        process.wait(timeout=60)
        slowest = max(slowest, time.monotonic() - struck)
    for copy in (run, alone):
        finish(launch(copy, *EVALUATING, str(copy)), copy)
    return Result(f"SIGTERM to an evaluation, {STOPS} times", 0, slowest, measured(run), measured(alone))


def measured(run: Path) -> str:
    """What all rows say but for the clock."""
    rows = [{k: v for k, v in row.items() if k not in CLOCK} for row in read_rows(run)]
    return digest(sorted(rows, key=lambda row: row["key"]))


def five(run: Path, data: Path, undisturbed: str) -> Result:
    """kill -9 of one of three workers, five times in one run; nobody starts anything again."""
    three = ("--workers", "3")
    alone = run.with_name("three")
    due = finish(start(alone, data, *three), alone)
    process, lost, waits = start(run, data, *three), 0, []
    for kill in range(1, 6):
        wait(lambda at=kill * 1000: seen(run) >= at, process)  # type: ignore[misc]
        workers(process)[kill % 3].kill()
        struck, before, checkpoint = time.monotonic(), seen(run), newest(run)
        lost += before - (checkpoint.images_seen if checkpoint else 0)
        wait(lambda at=before: seen(run) > at, process)  # type: ignore[misc]
        waits.append(time.monotonic() - struck)
    weights = finish(process, run)
    check_mirrored(run)
    return Result("one of 3 workers killed, 5 times", lost, sum(waits) / len(waits), weights, due)


def storage(run: Path, data: Path, undisturbed: str) -> Result:
    """RUN's disk takes no writes for half a minute, as network storage that is away."""
    disk = run.with_name("disk")
    with own_disk(disk):
        (disk / "run").mkdir()
        run.symlink_to(disk / "run")
        process = start(run, data)
        wait(lambda: seen(run) >= 2000, process)
        with frozen(disk):
            time.sleep(FROZEN_S)
            before = seen(run)
        thawed = time.monotonic()
        wait(lambda: seen(run) > before, process)
        recovery = time.monotonic() - thawed
        weights = finish(process, run)
        check_unbroken(run)
        check_mirrored(run)
        return Result(f"storage unwritable for {FROZEN_S} s", 0, recovery, weights, undisturbed)


def through(
    trouble: str, away: AbstractContextManager[None], run: Path, data: Path, undisturbed_name: str = "longer"
) -> Result:
    """Trains on through a minute of trouble; in the end MLflow has what the records have, and Prefect a flow run and
    tasks that completed at their first try, as those of a training without trouble in the same databases."""
    longer = ["--set", f"training.total_images={LONGER_IMAGES}"]
    undisturbed = run.with_name(undisturbed_name)
    if newest(undisturbed) is None:
        finish(start(undisturbed, data, *longer), undisturbed)
    process = start(run, data, *longer)
    wait(lambda: seen(run) >= 2000, process)
    before = seen(run)
    with away:
        struck = time.monotonic()
        wait(lambda: seen(run) > before, process)
        recovery = time.monotonic() - struck
        time.sleep(max(0.0, AWAY_S - LATE_S - recovery))
        late = seen(run)
        time.sleep(LATE_S)
        if seen(run) <= late:
            raise SystemExit(f"{run.name}: no image was seen in the last {LATE_S} s of {trouble}")
        if process.poll() is not None:
            raise SystemExit(f"{run.name}: the training ended before it was over that {trouble}")
    weights, whole = finish(process, run), newest(undisturbed)
    check_unbroken(run)
    check_mirrored(run, with_times=True)
    check_states(run, undisturbed)
    return Result(f"{trouble} for {AWAY_S} s", 0, recovery, weights, whole.weights if whole else "")


@contextmanager
def without(service: str, state: Path) -> Iterator[None]:
    """A service of a command is killed, and is started again at the end."""
    Record.load(state).processes[service].process().kill()  # type: ignore[union-attr]
    yield
    local.up(state, Ports.from_base(PORT_BASE), workers=False, ray=False)


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Somebody else has the write lock of an SQLite database."""
    holder = sqlite3.connect(database, isolation_level=None, timeout=60)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        holder.rollback()
        holder.close()


@contextmanager
def stopped(cluster: postgres.Postgres) -> Iterator[None]:
    """As after a power cut: it has to recover when it starts."""
    cluster.stop()
    try:
        yield
    finally:
        cluster.start()


def check_mirrored(run: Path, with_times: bool = False) -> None:
    """Raises: SystemExit unless MLflow has each row of the records once; `with_times`: at its own time.

    A row that was trained again stands there at its first time.
    """
    state = run.parent / "state"
    local.up(state, Ports.from_base(PORT_BASE), workers=False, ray=False)  # they ended with the flow that started them
    api = f"http://127.0.0.1:{PORT_BASE + 1}/api/2.0/mlflow"
    experiment = ask(f"{api}/experiments/get-by-name?experiment_name=flow-matching")["experiment"]["experiment_id"]
    wanted = f"tags.`fm.stage` = 'train' and tags.`fm.folder` = '{run.resolve()}'"
    found = ask(f"{api}/runs/search", {"experiment_ids": [experiment], "filter": wanted})["runs"]
    query = f"run_id={found[0]['info']['run_id']}&metric_key=train/loss&max_results=25000"
    points = ask(f"{api}/metrics/get-history?{query}")["metrics"]
    local.down(state)
    there = sorted((int(point["step"]), int(point["timestamp"]), point["value"]) for point in points)
    due = [(row["images_seen"], int(1000 * row["time"]), row["loss"]) for row in read(run / "records")]
    if not with_times:
        there, due = ([(step, 0, loss) for step, _, loss in rows] for rows in (there, due))
    if there != due:
        raise SystemExit(f"{run.name}: MLflow has {len(there)} points, the records {len(due)} rows, or others")


def check_unbroken(run: Path) -> None:
    """Raises: SystemExit unless the training began once, so that no image was seen twice."""
    starts = read(run / "records", after=-1, name="starts")
    if len(starts) != 1:
        raise SystemExit(f"{run.name}: the training began {len(starts)} times")


def check_states(run: Path, undisturbed: Path) -> None:
    """Raises: SystemExit unless Prefect has one flow run of each, Completed, with the same Completed tasks."""
    state = run.parent / "state"
    local.up(state, Ports.from_base(PORT_BASE), workers=False, ray=False)
    api = f"http://127.0.0.1:{PORT_BASE}/api"

    def found(of: Path) -> list[tuple[str, str, int]]:
        flows = [one for one in ask(f"{api}/flow_runs/filter", {}) if one["parameters"].get("run") == str(of)]
        tasks = ask(f"{api}/task_runs/filter", {"flow_runs": {"id": {"any_": [one["id"] for one in flows]}}})
        names = [("flow", one) for one in flows] + [(one["task_key"], one) for one in tasks]
        return sorted((name, one["state"]["type"], one["run_count"]) for name, one in names)

    there, whole = found(run), found(undisturbed)
    local.down(state)
    if there != whole or {one[1:] for one in there} != {("COMPLETED", 1)}:
        raise SystemExit(f"{run.name}: Prefect has {there}, of the undisturbed training {whole}")


def mlflow(run: Path, data: Path, undisturbed: str) -> Result:
    """MLflow is away for a minute."""
    return through("mlflow away", without("mlflow", run.parent / "state"), run, data)


def prefect(run: Path, data: Path, undisturbed: str) -> Result:
    """Prefect's API is away for a minute."""
    return through("prefect away", without("prefect", run.parent / "state"), run, data)


def database(run: Path, data: Path, undisturbed: str) -> Result:
    """Prefect's database is locked for a minute."""
    return through("prefect's database locked", locked(run.parent / "state" / "prefect" / "prefect.db"), run, data)


def postgresql(run: Path, data: Path, undisturbed: str) -> Result:
    """The PostgreSQL of both Prefect and MLflow is away for a minute."""
    if not postgres.PROGRAMS:
        raise Skipped("no PostgreSQL on this machine")
    with postgres.running(PORT_BASE - 10) as cluster:
        os.environ["FM_PREFECT_DATABASE"] = cluster.address("prefect", "+asyncpg")
        os.environ["FM_MLFLOW_BACKEND"] = cluster.address("mlflow")
        try:
            return through("both databases away (PostgreSQL)", stopped(cluster), run, data, "longer-postgresql")
        finally:
            subprocess.run([*FM, "down"], cwd=run.parent, check=True, capture_output=True)
            del os.environ["FM_PREFECT_DATABASE"], os.environ["FM_MLFLOW_BACKEND"]


DRILLS = {
    "worker": worker,
    "driver": driver,
    "leave": leave,
    "evaluation": evaluation,
    "five": five,
    "storage": storage,
    "mlflow": mlflow,
    "prefect": prefect,
    "database": database,
    "postgresql": postgresql,
}


def drills(names: list[str], base: Path) -> Iterator[Result]:
    base.mkdir()
    os.environ["FM_STATE"] = str(base / "state")
    os.environ["PYTHONPATH"] = str(ROOT)
    prepare = [*FM, "prepare", "photos:?tiles=60", str(base / "data"), "--size", "16", *PORTS]
    subprocess.run(prepare, cwd=base, check=True, capture_output=True)
    try:
        undisturbed = finish(start(base / "undisturbed", base / "data"), base / "undisturbed")
        for name in names:
            try:
                yield DRILLS[name](base / name, base / "data", undisturbed)
            except PermissionError as refused:
                print(f"{name:<52}skipped: a disk of its own needs the right to mount one ({refused})")
            except Skipped as why:
                print(f"{name:<52}skipped: {why}")
    finally:
        subprocess.run([*FM, "down"], cwd=base, check=True, capture_output=True)

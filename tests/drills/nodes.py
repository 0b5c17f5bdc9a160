"""Losses of machines: preset tiny on two of them (tests/two_nodes.py), one worker on each."""

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fm.checkpoints import newest
from fm.data import open_source, write_shards
from fm.recipe import Recipe
from fm.records import read
from tests.drills.ray_runs import ROOT, TRAINING, finish, seen, wait
from tests.drills.table import Result
from tests.two_nodes import TwoNodes, possible, two_nodes

PORTS = ["--port-base", "29100"]
NAMES = ["node", "elastic", "head"]


def start(cluster: TwoNodes, run: Path, data: Path, *options: str) -> subprocess.Popen[bytes]:
    command = ["-m", "flows.cli", "train", str(data), str(run), *TRAINING, "--address", cluster.address]
    return cluster.start("fm-head", *command, *PORTS, *options, log=run.parent / f"{run.name}.log")


def result(name: str, run: Path, process: subprocess.Popen[bytes], struck: float, due: str) -> Result:
    """Of a run that was struck and goes on: what it lost, how long it stood still, what it ended with."""
    before, checkpoint = seen(run), newest(run)
    wait(lambda: seen(run) > before, process)
    recovery = time.monotonic() - struck
    lost = before - (checkpoint.images_seen if checkpoint else 0)
    return Result(name, lost, recovery, finish(process, run), due)


def node(cluster: TwoNodes, run: Path, data: Path, due: str) -> Result:
    """The second machine loses power, and is back ten seconds later."""
    process = start(cluster, run, data)
    wait(lambda: seen(run) >= 2000, process)
    cluster.kill("fm-node")
    struck = time.monotonic()
    time.sleep(10)
    cluster.ray("fm-node", 1)
    return result("node killed, back after 10 s", run, process, struck, due)


def elastic(cluster: TwoNodes, run: Path, data: Path, due: str) -> Result:
    """The second machine loses power for good; the run goes on with one worker and the same global batch."""
    process = start(cluster, run, data, "--fewest-workers", "1")
    wait(lambda: seen(run) >= 2000, process)
    cluster.kill("fm-node")
    made = result("node gone for good, 1 of 2 workers goes on", run, process, time.monotonic(), due)
    cluster.ray("fm-node", 1)
    # One worker adds in another order than two: the last bits differ, and nothing else may.
    mine, theirs = ([row["loss"] for row in read(one / "records")] for one in (run, run.with_name("undisturbed")))
    farthest = max(abs(a / b - 1) for a, b in zip(mine, theirs, strict=True))
    return replace(
        made, drill=f"{made.drill}, losses", final=f"{farthest:.0e} off", undisturbed=f"{min(farthest, 1e-5):.0e} off"
    )


def head(cluster: TwoNodes, run: Path, data: Path, due: str) -> Result:
    """Ray's head dies, with all that hangs on it; cluster and command are started again."""
    process = start(cluster, run, data)
    wait(lambda: seen(run) >= 2000, process)
    struck = time.monotonic()
    cluster.kill("fm-head")
    cluster.kill("fm-node")
    if process.wait(timeout=300) == 0:
        raise SystemExit("the run ended well without its cluster")
    for name in ("fm-head", "fm-node"):
        cluster.ray(name, 1)
    cluster.await_nodes(2)
    return result("Ray head killed, all started again", run, start(cluster, run, data), struck, due)


def drills(names: list[str], base: Path) -> Iterator[Result]:
    if not possible():
        print(f"skipped, for no network namespaces can be made here: {', '.join(names)}")
        return
    os.environ |= {"FM_STATE": str(base / "state"), "PYTHONPATH": str(ROOT)}
    data = base / "data"
    write_shards(open_source("photos:?tiles=60"), data, Recipe.load("tiny").data)
    with two_nodes(base / "cluster") as cluster:
        undisturbed = finish(start(cluster, base / "undisturbed", data), base / "undisturbed")
        for name, drill in (("node", node), ("elastic", elastic), ("head", head)):
            if name in names:
                yield drill(cluster, base / name, data, undisturbed)

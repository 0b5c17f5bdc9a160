"""Where the time goes until a training under Ray and Prefect has its first step: `python -m tests.benchmarks.starting`.

Preset tiny, two workers, three starts of `fm train`: the first, one that resumes, and one that resumes while the
services are up already (`fm up`). SIGTERM ends the first two.
"""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fm.data import open_source, write_shards
from fm.recipe import Recipe
from fm.records import read

ROOT = Path(__file__).parent.parent.parent
FM = [sys.executable, "-m", "flows.cli"]
PORTS = ["--port-base", "29200"]
IMAGES = 1920  # of each start
STAGES = (
    "Prefect and MLflow, and the flow's process",
    "Ray, and the workers' processes",
    "imports, data, network, and the first step",
    "its other steps",
    "leaving",
)


def started(run: Path, data: Path, images: int) -> list[float]:
    """Seconds of each stage of one start."""
    options = ["--preset", "tiny", "--set", f"training.total_images={3 * IMAGES}", *PORTS]
    known = len(read(run / "records", after=-1, name="starts"))
    log = run.with_suffix(".log")
    begun = log.stat().st_size if log.exists() else 0
    rank = run / "logs" / "rank-0.log"
    spoken = rank.stat().st_size if rank.exists() else 0
    with open(log, "ab") as file:
        marks = [time.monotonic()]
        process = subprocess.Popen([*FM, "train", str(data), str(run), *options], cwd=ROOT, stdout=file, stderr=file)
        until: list[Callable[[], bool]] = [
            lambda: b"starting the workers" in log.read_bytes()[begun:],
            lambda: rank.exists() and rank.stat().st_size > spoken,
            lambda: len(read(run / "records", after=-1, name="starts")) > known,
            lambda: read(run / "records", after=images - 1) != [],
        ]
        for reached in until:
            while not reached():
                if process.poll():
                    raise SystemExit(log.read_text()[-3000:])
                time.sleep(0.02)
            marks.append(time.monotonic())
        process.terminate()
        process.wait()
        marks.append(time.monotonic())
    return [end - start for start, end in itertools.pairwise(marks)]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="fm-starting-") as folder:
        base = Path(folder)
        os.environ |= {"FM_STATE": str(base / "state"), "PYTHONPATH": str(ROOT)}
        write_shards(open_source("photos:?tiles=60"), base / "data", Recipe.load("tiny").data)
        try:
            first = started(base / "run", base / "data", IMAGES)
            resumed = started(base / "run", base / "data", 2 * IMAGES)
            subprocess.run([*FM, "up", *PORTS], cwd=ROOT, check=True, capture_output=True)
            warm = started(base / "run", base / "data", 3 * IMAGES)
        finally:
            subprocess.run([*FM, "down"], cwd=ROOT, check=True, capture_output=True)
    print("| seconds | first start | resumed | resumed, services up |\n| --- | --- | --- | --- |")
    for stage, *seconds in zip(STAGES, first, resumed, warm, strict=True):
        print(f"| {stage} | {' | '.join(f'{one:.1f}' for one in seconds)} |")
    print(f"| all | {' | '.join(f'{sum(one):.1f}' for one in (first, resumed, warm))} |")


if __name__ == "__main__":
    main()

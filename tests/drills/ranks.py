"""Deaths and bad storage without Ray: the very work of Ray's workers, in processes of a gloo group.

They are forked from a process that has torch loaded, so a start takes a moment and not seconds. Whoever loses a rank
starts all again, as Ray Train does.
"""

import contextlib
import json
import math
import multiprocessing
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch.distributed as dist

from fm.checkpoints import newest
from fm.data import load_manifest, open_source, write_shards
from fm.errors import UserError
from fm.facts import on_data
from fm.lineage import digest
from fm.recipe import Recipe, opened
from fm.records import read
from tasks import on_workers
from tests.drills.disks import mount, small_disk
from tests.drills.table import Result

FORK = multiprocessing.get_context("fork")
CHANGES = ("training.total_images=6400", "training.save_images=640", "training.ema_halflife_kimg=[500, 5]")
POLL_S = 0.02


@dataclass
class Ranks:
    """One RUN's training by `size` processes, that may be started, struck and started again."""

    run: Path
    config: dict[str, Any]
    size: int
    processes: list[BaseProcess] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)
    lost: int = 0
    reached: int = 0
    struck: float | None = None
    recoveries: list[float] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.config["log"]

    def start(self) -> None:
        meeting = self.log.with_suffix(f".meeting-{next(self.numbers)}")
        arguments = [(rank, self.size, meeting, self.config) for rank in range(self.size)]
        self.processes = [FORK.Process(target=one_rank, args=given, daemon=True) for given in arguments]
        for process in self.processes:
            process.start()

    def strike(self, number: int, ranks: list[int]) -> None:
        """Sends the signal; the time to recover runs until something is trained that was not before."""
        self.struck = self.struck or time.monotonic()
        for rank in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.processes[rank].pid or 0, number)

    def end(self, limit_s: float = 60) -> list[int | None]:
        """Waits until all have ended -> exit codes; those that outlast the first failure by ten seconds are killed."""
        deadline = time.monotonic() + limit_s
        while any(process.is_alive() for process in self.processes):
            if any(process.exitcode for process in self.processes):
                deadline = min(deadline, time.monotonic() + 10)
            if time.monotonic() > deadline:
                for process in self.processes:
                    process.kill()
            self.look()
            time.sleep(POLL_S)
        for process in self.processes:
            process.join()
        return [process.exitcode for process in self.processes]

    def fallen(self) -> list[int | None]:
        """As `end`, of processes that were struck: counts what will be trained twice."""
        before, self.reached = self.reached, 10**12  # what survivors still write is no recovery
        codes = self.end()
        self.reached = max(before, self.seen())
        self.lost += self.seen() - self.saved()
        return codes

    def look(self) -> None:
        if self.struck is not None and self.seen() > self.reached:
            self.recoveries.append(time.monotonic() - self.struck)
            self.struck = None

    def seen(self) -> int:
        rows = read(self.run / "records")
        return rows[-1]["images_seen"] if rows else 0

    def saved(self) -> int:
        found = newest(self.run)
        return found.images_seen if found else 0

    def wait(self, until: Callable[[], bool], limit_s: float = 900) -> None:
        deadline = time.monotonic() + limit_s
        while not until():
            if not all(process.is_alive() for process in self.processes) or time.monotonic() > deadline:
                raise SystemExit(f"{self.run.name}: ended or hung before it could be disturbed\n{self.last_lines()}")
            self.look()
            time.sleep(POLL_S)

    def until(self, share: float, within_s: float = math.inf) -> None:
        """Waits until that share of the run is done, or so many seconds have passed."""
        total, deadline = Recipe.load(self.run).training.total_images, time.monotonic() + within_s
        self.wait(lambda: self.seen() >= share * total or time.monotonic() > deadline)

    def last_lines(self) -> str:
        return self.log.read_text()[-2000:] if self.log.exists() else ""

    def finish(self) -> str:
        """One hash over weights, averages and optimiser of a run that goes on to its end, without gap or double."""
        if any(self.end(limit_s=900)):
            raise SystemExit(f"{self.run.name}: failed\n{self.last_lines()}")
        saved, settings = newest(self.run), Recipe.load(self.run).training
        steps = range(settings.batch_images, settings.total_images + 1, settings.batch_images)
        if saved is None or [row["images_seen"] for row in read(self.run / "records")] != list(steps):
            raise SystemExit(f"{self.run.name}: no checkpoint, or a gap or double in the records")
        return digest(json.loads((saved.path / "state.json").read_text())["sha256"])

    def result(self, drill: str, undisturbed: str) -> Result:
        weights = self.finish()
        recovery_s = sum(self.recoveries) / max(1, len(self.recoveries))
        return Result(f"{drill}, {self.size} ranks", self.lost, recovery_s, weights, undisturbed)


def one_rank(rank: int, size: int, meeting: Path, config: dict[str, Any]) -> None:
    with open(config["log"], "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    wait = timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=wait)
    try:
        on_workers.training(config)
    except UserError as error:
        print(f"error: {error}", flush=True)
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    dist.destroy_process_group()


def prepared(data: Path) -> Path:
    """Shards of sixty tiles of photographs."""
    write_shards(open_source("photos:?tiles=60"), data, Recipe.load("tiny").data)
    return data


def ranks(run: Path, data: Path, size: int, changes: Sequence[str] = CHANGES) -> Ranks:
    """A RUN, nothing of it started yet; its log lies beside the data, for RUN's disk may be full."""
    recipe = Recipe.load("tiny", [*changes, "training.report_images=1"])
    with opened(run, recipe):
        on_data(run, data, load_manifest(data))
    log = data.parent / f"{run.name}-{size}.log"
    config = {"recipe": recipe.model_dump(mode="json"), "data": str(data), "run": str(run), "log": log}
    return Ranks(run, config, size)


def killed(this: Ranks, victims: int, undisturbed: str, seed: int = 0, kills: int = 5) -> Result:
    """kill -9 of some ranks at random moments: of the whole run, and every other one within a second of a start.

    After each, whoever is left is waited for, and all start again.
    """
    chance = random.Random(seed)
    places = sorted(chance.uniform(0.05, 0.8) for _ in range(kills))
    for number, place in enumerate(places):
        this.start()
        this.until(place, chance.uniform(0.0, 1.0) if number % 2 else math.inf)
        time.sleep(chance.uniform(0.0, 0.02))  # in the middle of a step
        this.strike(signal.SIGKILL, chance.sample(range(this.size), victims))
        if not any(this.fallen()):
            raise SystemExit(f"{this.run.name}: it was done before it could be disturbed")
    this.start()
    return this.result(f"{'all' if victims == this.size else 'one of'} killed, {kills} times", undisturbed)


def damaged(this: Ranks, undisturbed: str) -> Result:
    """All killed, and one bit of the newest checkpoint's weights changed: the one before is used, aloud."""
    this.start()
    this.until(0.5)
    this.strike(signal.SIGKILL, list(range(this.size)))
    this.fallen()
    saved = newest(this.run)
    if saved is None:
        raise SystemExit(f"{this.run.name}: no checkpoint yet")
    file = saved.path / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    this.lost += saved.images_seen - this.saved()
    this.start()
    result = this.result("newest checkpoint damaged", undisturbed)
    said = read(this.run / "records", after=-1, name="starts")[-1]["restored"]
    if "model.safetensors is damaged" not in said:
        raise SystemExit(f"the damage was not said: {said}")
    return result


def told(this: Ranks, undisturbed: str) -> Result:
    """SIGTERM to one rank: all leave at one step, with a checkpoint and exit code 0."""
    this.start()
    this.until(0.5)
    this.strike(signal.SIGTERM, [this.size - 1])
    if any(this.fallen()):
        raise SystemExit(f"{this.run.name}: left in disorder\n{this.last_lines()}")
    this.start()
    return this.result("SIGTERM to one", undisturbed)


def full(this: Ranks, undisturbed: str) -> Result:
    """The disk is full: the run ends in one line that says so; with room again it goes on."""
    this.start()
    this.until(0.5)
    this.strike(0, [])
    ballast = this.run.parent / "ballast"
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while file.write(b"0" * 2**16):
            pass
    codes = this.fallen()
    told = [line for line in this.log.read_text().splitlines() if line.startswith("error: ")]
    if 2 not in codes or not any("cannot be written" in line and "No space left" in line for line in told):
        raise SystemExit(f"{this.run.name}: ended with {codes}\n{this.last_lines()}")
    ballast.unlink()
    this.start()
    return this.result("disk full until it ended", undisturbed)


def unwritable(this: Ranks, undisturbed: str) -> Result:
    """Storage that cannot be written for ten seconds ends nothing."""
    this.start()
    this.until(0.5)
    this.reached = this.seen()
    this.strike(0, [])
    while mount("-o", "remount,ro", this.run.parent):  # refused while a file is open for writing
        this.reached = this.seen()
    time.sleep(10)
    mount("-o", "remount,rw", this.run.parent)
    return this.result("storage unwritable for 10 s", undisturbed)


def drills(base: Path) -> Iterator[Result]:
    data = prepared(base / "data")
    undisturbed = {}
    for size in (2, 3):
        whole = ranks(base / f"undisturbed-{size}", data, size)
        whole.start()
        undisturbed[size] = whole.finish()
    for size, victims in ((3, 1), (2, 2), (3, 3)):
        yield killed(ranks(base / f"killed-{size}-{victims}", data, size), victims, undisturbed[size], seed=victims)
    for drill in (damaged, told):
        yield drill(ranks(base / drill.__name__, data, 3), undisturbed[3])
    for drill in (full, unwritable):
        try:
            with small_disk(base / f"disk-{drill.__name__}"):
                yield drill(ranks(base / f"disk-{drill.__name__}" / drill.__name__, data, 3), undisturbed[3])
        except PermissionError as refused:
            print(f"{drill.__name__:<52}skipped: a small disk needs the right to mount one ({refused})")

"""The stage from a source to shards: done already? then why; else in parallel on Ray."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from fm.data import (
    Manifest,
    Preparation,
    add_shards,
    load_manifest,
    open_source,
    write_shards,
)
from fm.data.addresses import is_address, settled
from fm.data.preparation import sample_bytes
from fm.data.sources import Source
from fm.estimating.estimate import in_bytes, in_time
from fm.mirror import publish
from fm.runs import of
from tasks import cluster, standing, watching
from tasks.retrying import PATIENTLY
from tasks.tracking import Tracking

UNREAD = (".heic", ".heif", ".avif", ".jxl")  # endings of pictures in formats that are not read here
RANGES, FEWEST = 20, 16  # ranges of shards that Prefect shows, at most; shards of a range, at least


@task(name="prepare", cache_policy=NO_CACHE, **PATIENTLY)
def prepare(source: str, data: Path, settings: Preparation, tracking: Tracking | None = None) -> Manifest:
    """Downsamples and shards the source into DATA, unless DATA holds just that, verified by hash.

    Where RUN is at an address, this machine alone does it: the others do not see its folders.
    """
    with tracking.stage("prepare") if tracking else nullcontext():
        run = tracking.run if tracking else None
        manifest = prepared(open_source(source), data, settings, run, here=run is not None and is_address(of(run)))
        if tracking:
            tracking.prepared(manifest)
        return manifest


def published(data: Path, run: Path) -> str | Path:
    """DATA as every machine finds it: the folder, or a copy of it beside a RUN that is at an address."""
    address = of(run)
    return sent(data, f"{address.rpartition('/')[0]}/data/{data.name}") if is_address(address) else data


@task(name="publish", cache_policy=NO_CACHE, **PATIENTLY)
def sent(data: Path, there: str) -> str:
    """DATA at its address; what is there is not sent again."""
    watching.say(f"prepare: {data} is sent to {there}, unless it is there")
    publish(data, there)
    return there


def prepared(
    source: Source, data: Path, settings: Preparation, run: Path | None, here: bool, gpus: float = 0
) -> Manifest:
    """DATA of this source, made unless it stands there; `gpus` of each slot, where pictures are drawn."""
    found = standing.prepared(source, data, settings, run)
    watching.found("prepare", found)
    if found.left:
        return found.left
    say_unread(source)
    on = partial(announced, here=here, gpus=gpus)
    return _watched(f"prepare {source.uri}", data, lambda told: write_shards(source, data, settings, on, told))


@task(name="extend", cache_policy=NO_CACHE, **PATIENTLY)
def extend(source: str, data: Path, accept_missing: bool) -> Manifest:
    """Adds the source's pictures to DATA as further shards; emits `fm.data.extended` if that made it another set."""
    before, opened = load_manifest(data), open_source(source)
    say_unread(opened)
    manifest = _watched(
        f"add {opened.uri}", data, lambda told: add_shards(opened, data, accept_missing, announced, told)
    )
    if manifest.digest != before.digest:
        there = settled(data)
        facts = {"data": there, "source": opened.uri, "digest": manifest.digest, "was": before.digest}
        watching.event("fm.data.extended", there, facts | {"images": manifest.images}, data=there)
    return manifest


def say_unread(source: Source) -> None:
    """Names the pictures among the source's files that are left out for their format, as those of phones may be."""
    for ending, count in source.passed_over().items():
        if ending in UNREAD:
            watching.say(f"prepare: {count:,} {ending} pictures left out, for it is not read here: make JPEG of them")


def _watched(what: str, data: Path, write: Callable[[Callable[[int, int], None]], Manifest]) -> Manifest:
    """Writes shards where their progress and what they leave out can be seen."""
    progress, pace = watching.Progress("prepare", what), Pace()
    try:
        manifest = write(lambda done, total: progress.update(done / total, pace.line(done, total)))
    except Exception:
        raise
    except BaseException:  # a signal
        watching.say("prepare: stopped; whole shards are kept: start again to go on")
        raise
    counts = ", ".join(f"{split.images:,} {name}" for name, split in manifest.splits.items())
    progress.update(1.0, f"{counts}; {sum(manifest.rejected.values()):,} rejected; digest {manifest.digest}", now=True)
    for reason, count in manifest.rejected.items():
        watching.say(f"prepare: rejected {count:,} images ({reason}), listed in {data / 'rejected.jsonl'}")
    return manifest


def announced(fn: Callable[[Any], Any], plan: Any, here: bool = False, gpus: float = 0) -> Iterator[Any]:
    """As `on_ray`, of a `Plan`, and says first what will be on disk."""
    size = in_bytes(len(plan.items) * sample_bytes(plan.settings))
    watching.say(f"prepare: {len(plan.items):,} images in {len(plan):,} shards, about {size}")
    return on_ray(fn, plan, here, gpus)


def on_ray(fn: Callable[[Any], Any], parts: Sequence[Any], here: bool = False, gpus: float = 0) -> Iterator[Any]:
    """`map` in Ray's slots; the first error ends it. Prefect shows tens of tasks, each a range of the parts."""
    outcomes = cluster.ray_map(fn, parts, gpus=gpus, lost=_lost, tell=watching.forward, here=here)
    each = max(FEWEST, -(-len(parts) // RANGES))
    for first in range(0, len(parts), each):
        last = min(first + each, len(parts))
        named = finished.with_options(task_run_name=f"shards {first + 1:,} to {last:,} of {len(parts):,}")
        yield from named(outcomes, last - first)


@task(name="shards", cache_policy=NO_CACHE)
def finished(outcomes: Iterator[cluster.Outcome], count: int) -> Iterator[Any]:
    """The next so many values; the slots go on with what follows, so ranges wait for nobody."""
    for outcome in islice(outcomes, count):
        yield outcome.needed()


def _lost(part: Any, why: str) -> None:
    watching.say(f"prepare: shard {part.name} is done again, on another machine if there is one: {why}")


class Pace:
    """How far, how fast and how long still: by the last minute, for what an earlier run left passes in no time, and
    from the first report on, for the workers' start is no pace.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.seen = clock, deque[tuple[float, int]]()

    def line(self, done: int, total: int) -> str:
        now, far = self.clock(), f"{done:,} of {total:,} images"
        if not self.seen:
            self.seen.append((now, done))
            return far
        while len(self.seen) > 1 and self.seen[1][0] < now - 60:
            self.seen.popleft()
        start, before = self.seen[0]
        if now > self.seen[-1][0] + 1:
            self.seen.append((now, done))
        rate = (done - before) / max(now - start, 1e-9)
        left = f", {in_time((total - done) / rate)} left" if rate and done < total else ""
        return f"{far}, {rate:,.0f} images/s{left}"

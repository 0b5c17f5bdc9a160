"""The stage from a source to shards: done already? then why; else in parallel on Ray."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from fm.data import (
    Manifest,
    Preparation,
    add_shards,
    inputs_digest,
    load_manifest,
    open_source,
    verify,
    write_shards,
)
from fm.errors import DataError
from tasks import cluster, watching
from tasks.tracking import Tracking


def folder_for(source: str, settings: Preparation, beside: Path) -> Path:
    """The DATA folder of a source and its settings, shared by all runs beside it: `data/photos-32-1f3a5b7c9d2e4f60`."""
    last = Path(source.split("?")[0].rstrip(":/")).name[:60]
    name = "".join(c if c.isalnum() else "-" for c in last).strip("-")
    return beside / "data" / f"{name}-{settings.size}-{inputs_digest(open_source(source), settings)}"


@task(name="prepare", cache_policy=NO_CACHE)
def prepare(source: str, data: Path, settings: Preparation, tracking: Tracking | None = None) -> Manifest:
    """Downsamples and shards the source into DATA, unless DATA holds just that, verified by hash."""
    with tracking.stage("prepare") if tracking else nullcontext():
        manifest = _prepared(source, data, settings)
        if tracking:
            tracking.data(manifest, data)
        return manifest


def _prepared(source: str, data: Path, settings: Preparation) -> Manifest:
    opened = open_source(source)
    if found := _unchanged(data, inputs_digest(opened, settings)):
        watching.say(
            f"prepare: unchanged (same source and settings; {found.images:,} images verified by hash in {data})"
        )
        return found
    return _watched(f"prepare {source}", data, lambda told: write_shards(opened, data, settings, on_ray, told))


@task(name="extend", cache_policy=NO_CACHE)
def extend(source: str, data: Path, accept_missing: bool) -> Manifest:
    """Adds the source's pictures to DATA as further shards; emits `fm.data.extended` if that made it another set."""
    before, opened = load_manifest(data), open_source(source)
    manifest = _watched(f"add {source}", data, lambda told: add_shards(opened, data, accept_missing, on_ray, told))
    if manifest.digest != before.digest:
        facts = {"data": str(data), "source": source, "digest": manifest.digest, "was": before.digest}
        watching.event("fm.data.extended", str(data.resolve()), facts | {"images": manifest.images})
    return manifest


def _watched(what: str, data: Path, write: Callable[[Callable[[int, int], None]], Manifest]) -> Manifest:
    """Writes shards where their progress and what they leave out can be seen."""
    progress = watching.Progress("prepare", what)
    manifest = write(lambda done, total: progress.update(done / total, f"{done:,} of {total:,} images"))
    counts = ", ".join(f"{split.images:,} {name}" for name, split in manifest.splits.items())
    progress.update(1.0, f"{counts}; {sum(manifest.rejected.values()):,} rejected; digest {manifest.digest}", now=True)
    for reason, count in manifest.rejected.items():
        watching.say(f"prepare: rejected {count:,} images ({reason}), listed in {data / 'rejected.jsonl'}")
    return manifest


def _unchanged(data: Path, inputs: str) -> Manifest | None:
    if not (data / "manifest.json").exists() or load_manifest(data).inputs != inputs:
        return None
    try:
        return verify(data)
    except DataError as error:
        watching.say(f"prepare: again, because {error.what}")
        return None


def on_ray(fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """`map` in Ray's slots; the first error ends it."""
    for outcome in cluster.ray_map(fn, items):
        if outcome.error:
            raise outcome.error
        yield outcome.value

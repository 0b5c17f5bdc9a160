"""The stage from shards to checkpoints: `fm.training` on all workers of the place, watched from RUN/records."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from prefect import task
from prefect.cache_policies import NO_CACHE

from fm.checkpoints import Saved, newest, newest_name
from fm.data import Manifest, settled
from fm.errors import SettingsError, UserError
from fm.facts import on_data
from fm.lineage import digest
from fm.recipe import Recipe
from fm.records import read
from fm.runs import driver_of, of, refresh
from tasks import cluster, on_workers, slots, standing, watching
from tasks.tracking import Tracking


class Pairs(NamedTuple):
    """Drawn images that are trained on in the place of real ones: their folder or address, its manifest, and what
    RUN/data.json says of them."""

    data: str | Path
    manifest: Manifest
    facts: dict[str, Any]


@task(name="train", cache_policy=NO_CACHE)
def train(
    data: str | Path, manifest: Manifest, run: Path, recipe: Recipe, tracking: Tracking, pairs: Pairs | None = None
) -> Saved:
    """Trains RUN until its recipe is fulfilled, from its newest good checkpoint; nothing to do if that stands there.

    With `pairs` these are what it is trained on, and DATA what it is judged by.
    Raises: SettingsError for a recipe of drawn images without them.
    """
    if recipe.training.drawn_by and not pairs:
        mend = "start `fm reflow` again, which draws them"
        raise SettingsError("is of images that are drawn first, each from its noise", "training.drawn_by", mend)
    place, seen = (pairs.data, pairs.manifest) if pairs else (data, manifest)
    on_data(run, data, manifest, standing.order_of(recipe, seen), pairs and pairs.facts)
    with tracking.stage("train"):
        tracking.data(seen, place)
        found = standing.trained(run, recipe, seen)
        watching.found("train", found)
        saved = found.left or _fit(place, seen, run, recipe, tracking)
        tracking.training()
        return saved


def _fit(data: str | Path, manifest: Manifest, run: Path, recipe: Recipe, tracking: Tracking) -> Saved:
    progress = watching.Progress("train", f"train {recipe.name}")
    start, last = time.time(), 0
    old = {row["time"] for name in ("train", "starts") for row in read(run / "records", after=-1, name=name)}

    def tick() -> None:
        nonlocal last
        suspension.leave()
        for row in read(run / "records", after=-1, name="starts"):
            if row["time"] not in old:
                old.add(row["time"])
                watching.say(_started(row))
                tracking.note(word="")
        # Older rows may be of an interrupted training that went further than its last checkpoint.
        if rows := [row for row in read(run / "records", after=last) if row["time"] not in old]:
            last = rows[-1]["images_seen"]
            progress.update(_done(recipe, rows[-1]), _line(recipe, rows[-1]))
        tracking.training_meanwhile()

    def say(line: str) -> None:
        watching.say(f"train: {line}")
        tracking.note(word=line)

    config = {"recipe": recipe.model_dump(mode="json"), "data": settled(data), "run": of(run), "driver": driver_of(run)}
    watching.say(f"train: {recipe.name}; starting the workers on {manifest.splits['train'].images:,} images")
    try:
        name = digest(recipe.training_digest(), manifest.digest)
        with slots.alone_on_gpus(cluster.address(), say), watching.Suspension() as suspension:
            cluster.fit(on_workers.training, config, name, run, tick, say, watching.forward)
    except Exception:
        raise
    except BaseException:  # a signal, or suspended: the workers were told to save and leave
        with suppress(UserError):  # an address that is away must not hide it
            refresh(run, checkpoint=False)
        if left := newest_name(run):
            watching.say(f"train: left with a checkpoint at {int(left):,} images seen; start again to go on")
        raise
    refresh(run)
    saved = newest(run)
    if saved is None:
        raise RuntimeError("the training ended without a checkpoint")
    if not recipe.training.finished(saved.images_seen, saved.seconds):
        what = f"the workers were told to leave, and did with a checkpoint at {saved.images_seen:,} images seen"
        raise UserError(what, str(run), "start again, which goes on from there")
    line = f"{saved.images_seen:,} images seen in {saved.seconds:.0f} s of training, {time.time() - start:.0f} s in all"
    progress.update(1.0, f"{line}; weights {saved.weights[:16]}", now=True)
    return saved


def _done(recipe: Recipe, row: dict[str, Any]) -> float:
    """The share of the training that lies behind, by images or by time, whichever is further."""
    by_images = row["images_seen"] / max(1, recipe.training.total_images)
    by_time = row["seconds"] / recipe.training.max_seconds if recipe.training.max_seconds else 0.0
    return min(1.0, max(by_images, by_time))


def _started(row: dict[str, Any]) -> str:
    averages = "; ".join(f"{name}: {stated}" for name, stated in row["averages"].items())
    return (
        f"train: {row['restored']}, {row['workers']} workers, "
        f"at most {row['micro_batch_images']} images at once on each; {averages}"
    )


def _line(recipe: Recipe, row: dict[str, Any]) -> str:
    done = _done(recipe, row)
    left = row["seconds"] * (1 - done) / max(done, 1e-9)
    return (
        f"{row['images_seen']:,} images seen, loss {row['loss']:.4f}, {row['images_per_s']:,.0f} images/s, "
        f"{done:.0%}, {left:,.0f} s left"
    )

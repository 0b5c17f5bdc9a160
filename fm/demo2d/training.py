"""Trains and measures each RUN of the demonstration in a process of its own, as many at a time as there are cores.

A process that is told to stop, or whose parent is gone, leaves a checkpoint; started again, it goes on from there.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from fm.checkpoints import Saved, Store, newest
from fm.demo2d import measuring
from fm.demo2d.plan import Plan
from fm.errors import UserError
from fm.facts import on_points
from fm.pairing import paired
from fm.recipe import PointRecipe, load, opened, recorded
from fm.records import Recorder
from fm.training import Progress, train


class Stopped(Exception):
    """Training was told to stop and has left its checkpoint."""


def make_all(runs: Sequence[tuple[Path, PointRecipe]], plan: Plan) -> None:
    """Trains and measures what is not yet.

    Raises: the UserError of the first RUN that has one; KeyboardInterrupt if one was stopped.
    """
    missing = [(run, recipe) for run, recipe in runs if not _is_made(run, recipe, plan)]
    pool, started = ThreadPoolExecutor(os.cpu_count() or 1), list[BaseProcess]()
    try:
        for done in [pool.submit(_in_a_process, run, recipe, plan, started) for run, recipe in missing]:
            done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in started:  # one that is not over leaves a checkpoint and ends
            process.terminate()
        pool.shutdown()


def _is_made(run: Path, recipe: PointRecipe, plan: Plan) -> bool:
    """Whether nothing is left to do; says so."""
    saved = newest(run)
    if not saved or not recipe.training.finished(saved.images_seen, saved.seconds) or recorded(run) != recipe:
        return False
    if made := measuring.Measured.load(run, measuring.key(load(run), plan)) is not None:
        seen = f"{saved.images_seen:,} points seen, weights {saved.weights[:16]} verified by hash"
        _say(recipe, f"unchanged (same recipe, sizes and code; {seen})")
    return made


def _in_a_process(run: Path, recipe: PointRecipe, plan: Plan, started: list[BaseProcess]) -> None:
    """Waits for a fresh process that makes one RUN, and raises here what ended it there."""
    context = multiprocessing.get_context("spawn")  # a fork of a process that runs torch's threads may hang
    answers, answer = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(answer, run, recipe, plan))
    process.start()
    started.append(process)
    answer.close()
    try:
        ended = answers.recv()
    except EOFError:
        ended = RuntimeError(f"the process of {recipe.name} ended without an answer")
    process.join()
    if ended is not None:
        raise ended


def _answer(answer: Connection, run: Path, recipe: PointRecipe, plan: Plan) -> None:
    """What the process does: makes the RUN, and answers with the error that ended it, or None."""
    told: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: told.append(number))
    parent = os.getppid()
    ended: BaseException | None = None
    try:
        with opened(run, recipe) as folder:
            train_run(folder, recipe, stop=lambda: bool(told) or os.getppid() != parent)
            for number in (signal.SIGINT, signal.SIGTERM):  # a measurement that is cut off leaves nothing
                signal.signal(number, signal.SIG_DFL)
            measure_run(folder, recipe, plan)
    except UserError as error:
        ended = error
    except Stopped:
        ended = KeyboardInterrupt()
    with suppress(BrokenPipeError):  # nobody is there any more to hear it
        answer.send(ended)


def measure_run(run: Path, recipe: PointRecipe, plan: Plan) -> None:
    """Measures what RUN shows of itself."""
    _say(recipe, "measuring, which takes about as long again as half the training")
    flow, start = load(run), time.monotonic()
    measuring.measure(flow, recipe.data, plan).save(run, measuring.key(flow, plan))
    _say(recipe, f"measured in {time.monotonic() - start:.0f} s")


def train_run(run: Path, recipe: PointRecipe, stop: Callable[[], bool] = lambda: False) -> Saved:
    """Trains RUN to its end, from its newest checkpoint on.

    Raises: Stopped; CheckpointError, Diverged.
    """
    settings, points = recipe.training, recipe.data
    on_points(run, points)
    saved = newest(run)
    if saved and settings.finished(saved.images_seen, saved.seconds):
        _say(recipe, f"trained: unchanged ({saved.images_seen:,} points seen, weights verified by hash)")
        return saved
    store = Store(run, recipe.training_values(), points.digest, settings.keep)
    model, objective = recipe.build(points.shape, None)
    batches_from = paired(
        lambda start: points.batches(settings.batch_images, start),
        lambda start: points.batches(settings.block_images, start),
        settings,
    )
    events = train(model, objective, settings, batches_from, store, stop=stop)
    _say(recipe, store.restored.replace("images", "points"))
    recorder = Recorder(run / "records")
    recorder.cut(store.images_seen)
    for event in events:
        if isinstance(event, Progress):
            recorder.write(time=time.time(), **event.values())
            _say(recipe, _line(event, settings.total_images))
        elif isinstance(event, Saved):
            saved = event
    assert saved is not None  # noqa: S101  the last event is a Saved
    if not settings.finished(saved.images_seen, saved.seconds):
        _say(recipe, f"stopped at {saved.images_seen:,} points seen; start again to go on from there")
        raise Stopped
    return saved


def _line(event: Progress, total: int) -> str:
    left = max(0, total - event.images_seen) / event.images_per_s
    return (
        f"{event.images_seen:,} points seen, loss {event.loss:.4f}, {event.images_seen / total:.0%}, {left:.0f} s left"
    )


def _say(recipe: PointRecipe, words: str) -> None:
    print(f"{recipe.name:<20} {words}", file=sys.stderr, flush=True)

"""A sweep of twelve cells in two slots of one thread against one: `python -m tests.benchmarks sweeping`."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fm.cells import cells
from fm.checkpoints import newest
from fm.data import open_source, write_shards
from fm.evaluation import row_key
from fm.facts import facts_of, on_data
from fm.metrics import load_features
from fm.recipe import Recipe, opened
from tasks import cluster, measuring, on_workers
from tasks.measuring import Job, Share
from tests.benchmarks.timing import Row

GRID = [{"solver": s, "nfe": n} for s in ("euler", "midpoint", "heun", "rk4") for n in (4, 8, 16)]
TIMED = ("seconds", "nll_seconds")


def sweeping(folder: Path) -> Iterator[Row]:
    """With warm workers, from the first part to the last row, in turns; the rows of both have to be the same bits."""
    changes: dict[str, Any] = {"training.total_images": 64, "training.batch_images": 64, "evaluation.grid": GRID}
    changes |= {"evaluation.samples": 128, "evaluation.nll_images": 0, "training.max_seconds": None}
    recipe = Recipe.load("demo", changes)
    manifest = write_shards(open_source("photos:?tiles=60"), folder / "sweep-data", recipe.data)
    with opened(folder / "sweep", recipe) as run:
        on_data(run, folder / "sweep-data", manifest)
    on_workers.training({"recipe": recipe.model_dump(mode="json"), "data": str(folder / "sweep-data"), "run": str(run)})
    seconds, rows, ray = {}, {}, cluster._ray()
    for workers in (1, 2):
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="error")
        try:
            _swept(run, recipe)
            start = time.monotonic()
            rows[workers] = _swept(run, recipe)
            seconds[workers] = time.monotonic() - start
        finally:
            ray.shutdown()
    assert rows[1] == rows[2]
    ours = f"sweep of 12 cells, demo, two workers: {seconds[2]:.1f} s, the same bits"
    yield ours, f"one worker (goal 1.7): {seconds[1]:.1f} s", seconds[1] / seconds[2]


def _swept(run: Path, recipe: Recipe) -> list[dict[str, Any]]:
    saved, data = newest(run), facts_of(run)["digest"]
    assert saved
    features = load_features(recipe.evaluation.features).identity
    jobs = [
        Job(row_key(saved.weights, cell, features, data), str(run), run, recipe.evaluation, cell, saved.weights)
        for cell in sorted(cells(recipe.evaluation), key=lambda cell: -(cell.nfe or 0))
    ]
    for outcome in cluster.ray_map(measuring.found, [Share(job, part) for job in jobs for part in job.parts()]):
        outcome.item.keep(outcome.value)
    done = [outcome.value for outcome in cluster.ray_map(measuring.row, jobs)]
    return [{name: value for name, value in row.items() if name not in TIMED} for row in done]

"""The last stage: pictures of what the network draws, the page, and the same table for Prefect and the terminal."""

import os
from pathlib import Path
from typing import Any

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE
from torch import Tensor

from fm import presets
from fm.cells import Cell, cell_of
from fm.checkpoints import Saved
from fm.data import ShardedImages
from fm.data.addresses import is_address
from fm.facts import facts_of
from fm.flow import Flow
from fm.footprint import batch_that_fits
from fm.lineage import digest
from fm.pixels import to_pixels
from fm.recipe import Recipe, load
from fm.records import read
from fm.reference import examples
from fm.report import Pictures, kept, write_report
from fm.results import Row, table
from fm.runs import of
from fm.tableaux import Tableau, tableau
from tasks import standing, watching
from tasks.retrying import PATIENTLY
from tasks.standing import along_training
from tasks.tracking import Tracking

SAMPLES, STRIP, CLASSES = 64, 8, 10
TIMES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)


@task(name="report", cache_policy=NO_CACHE, **PATIENTLY)
def report(run: Path, recipe: Recipe, saved: Saved, rows: list[Row], tracking: Tracking) -> Path:
    """RUN/report.html and RUN/report/*.png from the rows, the records and samples of the trained network."""
    page = run / "report.html"
    records = read(run / "records")
    rows = [row for row in rows if not along_training(row, saved)]
    made_of = standing.page_of(run, rows, saved)
    with tracking.stage("report"):
        found = standing.reported(run, made_of)
        watching.found("report", found)
        if found.left is None:
            links = {"MLflow": tracking.url, "Prefect flow run": watching.flow_run_url()}
            pictures = _pictures(load(run), facts_of(run)["data"], measured_cells(rows, saved.weights))
            shown = {"images seen": f"{saved.images_seen:,}", "weights": saved.weights, **_settings(recipe)}
            write_report(
                run, _title(run, recipe), rows, records, pictures, links, shown, next_commands(of(run), recipe)
            )
            files = [page, *sorted((run / "report").glob("*.png")), run / "report" / "table.csv"]
            kept.keep(run, digest(made_of), files, rows=[row["key"] for row in rows], made_of=made_of)
            watching.say(f"report: {page} and {len(files) - 1} files beside it")
        tracking.figures(page, *sorted((run / "report").glob("*.png")), run / "report" / "table.csv")
        watching.table("results", table(rows), f"{_title(run, recipe)}: every number with its floor")
        watching.picture("samples", run / "report" / "samples.png", f"{run.name}: drawn by the network, not selected")
    return page


def measured_cells(rows: list[Row], weights: str) -> list[Cell]:
    """The cells that these weights were measured in, those without guidance if there are any."""
    measured = [cell_of(row) for row in rows if row["weights"] == weights and "failed" not in row]
    return [cell for cell in measured if not cell.guidance] or measured


def finest(cells: list[Cell]) -> Cell:
    """The cell that integrates best: the pictures show what its row in the table measures."""
    return max(cells, key=lambda cell: (cell.nfe is not None, cell.nfe, tableau(cell.solver).order))


def budgets(cells: list[Cell]) -> list[Cell]:
    """The fixed budgets of one solver on its own grid, that with the most of them, of several the one of the highest
    order; none of a single budget."""
    fixed: dict[str, dict[int, Cell]] = {}
    for cell in cells:
        if cell.nfe is not None and not cell.grid:
            fixed.setdefault(cell.solver, {})[cell.nfe] = cell
    most = max(fixed.items(), key=lambda item: (len(item[1]), tableau(item[0]).order), default=("", {}))[1]
    return [most[nfe] for nfe in sorted(most)] if len(most) > 1 else []


def _pictures(flow: Flow, data: str, cells: list[Cell]) -> Pictures:
    torch.set_num_threads(os.cpu_count() or 1)
    cell = finest(cells)
    budget = f"NFE {cell.nfe}" if cell.nfe else f"tolerance {cell.tolerance:g}"
    dataset = ShardedImages(data, "test")
    y = torch.arange(SAMPLES) % len(flow.classes) if flow.classes else None
    real = torch.from_numpy(dataset.gather(torch.linspace(0, len(dataset) - 1, min(SAMPLES, len(dataset))).long()))
    given = examples(flow, data, SAMPLES)
    first: dict[str, Any] = {"y": None if y is None else y[:STRIP], "low": given and given.low[:STRIP]}
    way = cell.options() if isinstance(tableau(cell.solver), Tableau) else {"method": "midpoint", "nfe": 32}
    strip = flow.trajectory(STRIP, TIMES, **first, **way)  # the others have no states between their steps
    batch = batch_that_fits(flow.model, flow.shape, flow.device, SAMPLES)
    return Pictures(
        samples=flow.sample(SAMPLES, y=y, low=given and given.low, batch=batch, **cell.options()),
        real=given.images if given else real.permute(0, 3, 1, 2),  # of super-resolution what should have come out
        trajectory=to_pixels(strip.flatten(0, 1)).view(strip.shape),
        times=TIMES,
        drawn_by=f"{cell.solver}, {budget}, seed 0",
        by_class=_by_class(flow, first["low"], cell),
        by_budget={
            f"{one.solver} {one.nfe}": flow.sample(STRIP, **first, **one.options()).cpu() for one in budgets(cells)
        },
    )


def _by_class(flow: Flow, low: Tensor | None, cell: Cell) -> dict[str, Tensor]:
    """Samples of the first classes by name, all classes from the same noises; none of a network without classes."""
    labels = {name: torch.full((STRIP,), label) for label, name in enumerate((flow.classes or ())[:CLASSES])}
    return {name: flow.sample(STRIP, y=y, low=low, **cell.options()).cpu() for name, y in labels.items()}


def _title(run: Path, recipe: Recipe) -> str:
    return run.name if recipe.peer or run.name == recipe.name else f"{run.name}, preset {recipe.name}"


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {"recipe": recipe.digest(), **recipe.model_dump(mode="json", exclude={"name"})}


def next_commands(run: str, recipe: Recipe) -> list[tuple[str, str]]:
    """The commands worth trying next."""
    fm = ".venv/bin/fm" if Path(".venv/bin/fm").exists() else "fm"
    run, grid = (run, "grid.png") if is_address(run) else (os.path.relpath(run), f"{os.path.relpath(run)}/grid.png")
    preset = recipe.name if recipe.name in presets.names() else run  # comparisons name theirs as no preset is named
    another = f"{fm} pipeline YOUR_PICTURES runs/ANOTHER --preset {preset}"
    return [
        (f"{fm} sample {run} --n 64 --out {grid}", "draw more pictures"),
        (f"{fm} up", "Prefect and MLflow, to look at this run in both"),
        *([] if recipe.peer or recipe.training.drawn_by else [(another, "the same on another folder of pictures")]),
    ]

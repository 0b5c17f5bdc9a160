"""`python -m tests.benchmarks.choices_mini RUN...` writes README.md of what was measured on trainings of FM w/ OT of
several seeds, each with `training.ema_lengths`: time grids and guidance by `fm evaluate`, lengths of the average by
`fm ema`.
"""

import shutil
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from fm.beyond.table import figure
from fm.checkpoints import newest
from fm.files import read_json
from fm.results import Row, csv_table, distances, number, read_rows
from tests.benchmarks.minis import table, write

HERE = Path(__file__).parent
HEAD = """# Chosen after the training, in miniature

Written by `python -m tests.benchmarks.choices_mini RUN...` from rows in RUNs of FM w/ OT on photos at 32 px
(preset mini, 120,000 images seen, 256 samples): nothing here trains a network anew.

How they were measured, when and on what: [the benchmarks](../README.md#chosen-after-the-training).
"""
VERDICTS = (
    "Means over {seeds} training seeds, in brackets their range; lower is better. Better or worse stands where, in each"
    " seed, the figure differs from that of {of} by more than the 95 % interval of the difference, paired by noise."
)
GRIDS = ("uniform", "edm", "optimised")
Point = tuple[Any, ...]


def by_point(runs: list[Path]) -> dict[Point, dict[int, Row]]:
    """Rows at fixed steps of each RUN's last weights: by solver, grid, strength and interval of guidance and NFE, and
    in each by the RUN's number."""
    found: dict[Point, dict[int, Row]] = defaultdict(dict)
    for seed, run in enumerate(runs):
        last = newest(run)
        for row in read_rows(run):
            if last and row["weights"] == last.weights and row["tolerance"] is None and "failed" not in row:
                guidance = row.get("guidance") or 0.0, tuple(row.get("guidance_interval") or ())
                found[row["solver"], row.get("chosen_grid") or "uniform", *guidance, row["nfe"]][seed] = row
    return found


def shown(rows: dict[int, Row], baseline: dict[int, Row], name: str) -> str:
    values = [row[name] for row in rows.values()]
    if not values or len(values) < len(baseline):
        return ""
    verdict = figure(rows, baseline, name).verdict
    words = f"{number(fmean(values))} ({number(min(values))} to {number(max(values))})"
    return f"{words} {verdict}".strip()


def grids(found: dict[Point, dict[int, Row]], name: str, seeds: int) -> list[str]:
    solvers = sorted({solver for solver, grid, *_ in found if grid == "optimised"})
    budgets = sorted({nfe for solver, grid, _, _, nfe in found if grid == "optimised"})
    lines = []
    for solver in solvers:
        for grid in GRIDS:
            cells = [(found[solver, grid, 0.0, (), n], found[solver, "uniform", 0.0, (), n]) for n in budgets]
            lines.append([solver, grid, *(shown(rows, even, name) for rows, even in cells)])
    note = VERDICTS.format(seeds=seeds, of="the uniform grid with the same solver and NFE")
    return ["## Time grids", note, table(["solver", "grid", *map(str, budgets)], lines)]


def guidance(found: dict[Point, dict[int, Row]], name: str, seeds: int) -> list[str]:
    guided = {point for point in found if point[2] and point[0] == "euler"}
    budgets = sorted({nfe for *_, nfe in guided})
    lines = []
    for strength, interval in [(0.0, ()), *sorted({point[2:4] for point in guided})]:
        rows = [found["euler", "uniform", strength, interval, nfe] for nfe in budgets]
        plain = [found["euler", "uniform", 0.0, (), nfe] for nfe in budgets]
        when = " to ".join(f"{t:g}" for t in interval)
        cells = [shown(own, base, name) for own, base in zip(rows, plain, strict=True)]
        lines.append([f"{strength:g}", when, *cells])
    note = VERDICTS.format(seeds=seeds, of="no guidance at the same NFE")
    note += " Steps of Euler, which takes one evaluation, and two where it is guided: not every budget can be met."
    return ["## Guidance", note, table(["strength", "in times", *map(str, budgets)], lines)]


def averages(runs: list[Path]) -> list[str]:
    parts = ["## Length of the average"]
    for run in runs:
        (report,) = (run / "averages").glob("*/report")
        shutil.copy(report / "sweep.png", HERE / f"{run.name}.png")
        head, *lines = read_json(report / "sweep.json")["table"]
        parts += [f"{run.name}:", table(head, lines), f"![Distance by the length of the average]({run.name}.png)"]
    return parts


if __name__ == "__main__":
    runs = [Path(run) for run in sys.argv[1:]]
    found = by_point(runs)
    rows = [row for own in found.values() for row in own.values()]
    named = [row | ({"guide_run": Path(row["guide_run"]).name} if "guide_run" in row else {}) for row in rows]
    (HERE / "table.csv").write_text(csv_table(named))
    parts = [part(found, distances(rows)[0], len(runs)) for part in (grids, guidance)]
    write(HERE, HEAD, [*parts, averages(runs)])

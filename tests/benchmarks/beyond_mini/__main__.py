"""`python -m tests.benchmarks.beyond_mini OUT RUN...` writes README.md of what `fm paper --beyond` found in OUT, and of
what `fm evaluate RUN --solvers euler,dpm2m --nfe 5,8,10,20 --grids uniform,edm,optimised` did of RUNs of several seeds.
"""

import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from fm.results import Row, distances, number, read_rows
from tests.benchmarks.minis import found_in, kept, write

HERE = Path(__file__).parent
HEAD = """# Beyond the paper in miniature

Written by `python -m tests.benchmarks.beyond_mini OUT RUN...` from what `fm paper --beyond --scale mini` left in OUT,
and `fm evaluate` in its RUNs.

When and on what they were measured: [the benchmarks](../README.md#beyond-the-paper).
"""
FIGURES = {"curves": "Distance by evaluations a sample; jumps dashed", "pictures": "The same noises at 1, 2 and 4"}
BUDGETS, GRIDS = (5, 8, 10, 20), ("uniform", "edm", "optimised")


def section(out: Path) -> list[str]:
    name, parts = found_in(out)["data_set"], kept(out, HERE, "fm paper --beyond")
    return [*parts, *(f"{words}:\n\n![{words}]({name}/{key}.png)" for key, words in FIGURES.items())]


def grids(runs: list[Path]) -> list[str]:
    """Distance at each budget by solver and grid: the mean over the RUNs, and in brackets their range."""
    found: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in (row for run in runs for row in read_rows(run) if not row.get("guidance") and "failed" not in row):
        if row["nfe"] in BUDGETS and row["tolerance"] is None and row["method"] != "untrained":
            found[row["solver"], row.get("chosen_grid") or "uniform", row["nfe"]].append(row)
    name = distances([row for rows in found.values() for row in rows])[0]
    lines = ["| solver, grid | " + " | ".join(map(str, BUDGETS)) + " |", "| --- " * (len(BUDGETS) + 1) + "|"]
    for solver in dict.fromkeys(solver for solver, _, _ in found):
        for grid in GRIDS:
            cells = []
            for nfe in BUDGETS:
                values = [row[name] for row in found[solver, grid, nfe]]
                spread = f" ({number(min(values))} to {number(max(values))})" if values else ""
                cells.append(number(fmean(values)) + spread if values else "")
            lines.append(f"| {solver}, {grid} | {' | '.join(cells)} |")
    words = f"{name} of FM w/ OT, seeds {len(runs)}: the mean, in brackets the range."
    return ["## Time grids", words, "\n".join(lines)]


if __name__ == "__main__":
    out, *runs = map(Path, sys.argv[1:])
    write(HERE, HEAD, [section(out), *([grids(runs)] if runs else [])])

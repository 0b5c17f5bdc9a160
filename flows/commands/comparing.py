"""The command that sets trained networks side by side: `fm compare`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.asked import AsJson, existing


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Two RUNs or more, folders or addresses; the first is the baseline."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the page, its pictures and tables.")] = Path("runs/comparison"),
    samples: Annotated[
        int,
        typer.Option(min=0, help="Samples of each for pictures and nearest training images; 0: numbers and curves."),
    ] = 200,
    as_json: AsJson = False,
) -> None:
    """Compare evaluated RUNs, sample by sample from the same noise: which is better, by how much, and how surely.

    Uses the rows that `fm evaluate` left: measure all RUNs on the same DATA, solvers and samples first.
    """
    from fm.comparing import names_of

    names_of(runs)
    for run in runs:
        existing(run)
    from fm.comparing import Comparison
    from fm.report.comparison import pair_values, paired_table
    from fm.results import aligned
    from fm.side_by_side import side_by_side

    def table(found: Comparison) -> None:
        if not as_json:
            typer.echo(f"\n{aligned(paired_table(found))}\n")

    made = side_by_side(runs, out, samples, say=lambda words: typer.echo(words, err=True), show=table)
    if as_json:
        found = made.comparison
        rows = {run.where: run.rows for run in found.runs}
        pairs = [pair_values(pair) for pair in found.paired]
        typer.echo(json.dumps({"report": str(made.page), "paired": pairs, "notes": made.notes, "rows": rows}))
        return
    for note in made.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"report: {made.page.resolve().as_uri()}\nbeside it: table.csv, paired.csv, table.tex, pictures")

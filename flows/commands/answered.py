"""What the commands answer: values for people or as JSON, a table with what is worth trying next."""

import json
from pathlib import Path
from typing import Any

import typer


def tell(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(values))
    else:
        for key, value in values.items():
            typer.echo(f"{key:<12} {value}")


def summarise(run: Path, page: Path, as_json: bool) -> None:
    from fm.files import read_json
    from fm.recipe import Recipe
    from fm.results import existing_row, table_note, text_table
    from tasks.report import next_commands

    rows = [existing_row(run, key) for key in read_json(run / "report" / "inputs.json")["rows"]]
    if as_json:
        typer.echo(json.dumps({"report": str(page), "rows": rows}))
        return
    typer.echo(f"\n{text_table(rows)}\n{table_note(rows)}\n\nreport: {page.resolve().as_uri()}\n\nworth trying next:")
    commands = next_commands(run, Recipe.load(run))
    for command, what in commands:
        typer.echo(f"  {command:<{max(len(c) for c, _ in commands)}}  {what}")


def estimate_training(data: str, manifest: Any, recipe: Any, workers: int, as_json: bool) -> None:
    from fm.estimating.estimate import estimate, of_folder

    recipe = recipe.model_copy(update={"data": manifest.settings})  # the data say themselves how they were prepared
    _tell_estimate(estimate(recipe, of_folder(data, manifest), workers, {}), as_json)


def estimate_pipeline(source: str, recipe: Any, workers: int, as_json: bool) -> None:
    from fm.data import open_source
    from fm.estimating.estimate import estimate, of_source

    data, size = of_source(open_source(source), recipe.data)
    _tell_estimate(estimate(recipe, data, workers, {"DATA": size}), as_json)


def _tell_estimate(found: Any, as_json: bool) -> None:
    typer.echo(json.dumps(found.values) if as_json else found.text())

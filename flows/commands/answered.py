"""What the commands answer: values for people or as JSON, a table with what is worth trying next."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from flows.commands.asked import found
from fm.errors import SettingsError, Unfinished, UserError


def tell(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(values))
    else:
        for key, value in values.items():
            typer.echo(f"{key:<12} {value}")


def summarised(measure: Callable[[], str], run: str, as_json: bool) -> None:
    """`summarise` of the page that the flow returns; of what stands, too, where a cell failed.

    Raises: Unfinished if one did.
    """
    try:
        page = Path(measure())
    except Unfinished:
        summarise(run, found(run) / "report.html", as_json)
        raise
    summarise(run, page, as_json)


def tell_network(network: dict[str, Any]) -> None:
    """A feature network for people, from `fm.metrics.readiness`."""
    state = f"ready, SHA-256 {network['sha256'][:12]}" if network["state"] == "ready" else network["state"]
    typer.echo(f"\n{network['features']}: {state}")
    lines = {
        "file": network["file"],
        "mend": network["mend"],
        "pictures": network["preprocessing"],
        "dimensions": network["dimensions"],
    }
    for key, value in lines.items():
        if value:
            typer.echo(f"  {key:<10} {value}")
    if not network["published"]:
        typer.echo("  must show  no published value of it is known")
    for one in network["published"]:
        typer.echo(f"  must show  {one['column']} {one['value']:g} (+- {one['apart']:g}), {one['source']}")
        typer.echo(f"             FOLDER: {one['pictures']}; DATA: {one['reference']}")
        typer.echo(f"             {one['command']}")


def summarise(run: str, page: Path, as_json: bool) -> None:
    """The rows that a flow measured, from the folder of its page, and what is worth trying next with RUN."""
    from fm.files import read_json
    from fm.recipe import Recipe
    from fm.results import existing_row, table_note, text_table
    from tasks.report import next_commands

    folder = page.parent
    rows = [existing_row(folder, key) for key in read_json(folder / "report" / "inputs.json")["rows"]]
    if as_json:
        typer.echo(json.dumps({"report": str(page), "rows": rows}))
        return
    typer.echo(f"\n{text_table(rows)}\n{table_note(rows)}\n\nreport: {page.resolve().as_uri()}\n\nworth trying next:")
    commands = next_commands(run, Recipe.load(folder))
    for command, what in commands:
        typer.echo(f"  {command:<{max(len(c) for c, _ in commands)}}  {what}")


DOES = {"runs": "would run", "refused": "REFUSED"}


def tell_plan(source: str, run: str, recipe: Any, start_at: Any, as_json: bool) -> None:
    """What a pipeline would do now, stage by stage.

    Raises: SettingsError if it would be refused.
    """
    from tasks.planning import planned

    steps = list(planned(source, run, recipe, start_at))
    if as_json:
        typer.echo(json.dumps({"stages": [vars(step) for step in steps]}))
    for step in [] if as_json else steps:
        typer.echo(f"{step.stage:<9} {DOES.get(step.does, step.does):<10} {step.why}")
    if steps[-1].does == "refused":
        raise SettingsError(steps[-1].why, run)


def estimate_training(data: str, manifest: Any, recipe: Any, workers: int, as_json: bool) -> None:
    from fm.estimating.estimate import of_folder

    _tell_estimate(recipe, of_folder(data, manifest), workers, {}, as_json)


def estimate_pipeline(source: str, recipe: Any, workers: int, as_json: bool) -> None:
    from fm.data import open_source
    from fm.estimating.estimate import of_source

    data, size = of_source(open_source(source), recipe.data)
    _tell_estimate(recipe, data, workers, {"DATA": size}, as_json)


def estimate_paper(plan: Any, source: str, out: str, workers: int, as_json: bool) -> None:
    """What follows from counting comes first, as for a single training."""
    known, found = paper_estimate(plan, source, out, workers, (lambda words: None) if as_json else typer.echo)
    typer.echo(json.dumps(known.values() | found.values) if as_json else found.text())


def paper_estimate(plan: Any, source: str, out: str, workers: int, tell: Callable[[str], None]) -> tuple[Any, Any]:
    """What a comparison takes, counted and measured; `tell` hears what was counted before the measurement."""
    from fm.data import load_manifest, open_source
    from fm.estimating.estimate import of_folder, of_source
    from fm.paper import estimating

    if not source:
        data, size = estimating.published(plan)
        disk = {"DATA": size}
    elif (Path(source) / "manifest.json").exists():
        data, disk = of_folder(source, load_manifest(source)), {}
    else:
        data, size = of_source(open_source(source), plan.recipe.data)
        disk = {"DATA": size}
    with _interruptible():
        known, words = estimating.counted(plan, data, workers)
        tell(words)
        return known, estimating.estimate_paper(plan, data, known, Path(out), disk, measuring)


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("stopped: nothing was trained or written", err=True)
        raise typer.Exit(130) from None


def _tell_estimate(recipe: Any, data: Any, workers: int, disk: dict[str, Any], as_json: bool) -> None:
    """What is known without running comes first, so that it is told too where the machine cannot run it."""
    with _interruptible():
        from fm.estimating.counting import count
        from fm.estimating.estimate import estimate

        known = count(recipe, data, workers)
        if not as_json:
            typer.echo(known.text())
        try:
            found = estimate(recipe, data, known, disk, measuring)
        except UserError:
            if as_json:
                typer.echo(json.dumps(known.values()))
            raise
    typer.echo(json.dumps(known.values() | found.values) if as_json else found.text())


def measuring(part: str) -> None:
    """Said beside the answer, by the processes that measure too."""
    typer.echo(f"measuring: {part}", err=True)

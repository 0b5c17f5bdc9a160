"""`fm settings`: what `--set` can change, with types, ranges and the values of a preset."""

import json
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Annotated

import typer

from flows.commands.asked import AsJson, Changes, Preset, recipe_of
from fm.errors import SettingsError, nearest


def settings(
    prefix: Annotated[
        str, typer.Argument(metavar="[PREFIX]", help="Only those that begin so, e.g. training or model.heads.")
    ] = "",
    preset: Preset = "demo",
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Every setting of a recipe: its key for --set, its value in the preset, what it takes, what it is."""
    from fm.recipe import Recipe
    from fm.settings import listed

    recipe = recipe_of(preset, changes)
    every = list(listed(Recipe, recipe.model_dump(mode="json")))
    chosen = [one for one in every if one.key.startswith(prefix)]
    if not chosen:
        groups = {one.key.partition(".")[0] for one in every}
        raise SettingsError(f"no setting begins with {prefix!r}", "PREFIX", nearest(prefix, groups))
    if as_json:
        return typer.echo(json.dumps([vars(one) for one in chosen]))
    rows = [(one.key, _shown(one.value), one.takes, one.description) for one in chosen]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for line in lines(rows, width):
        typer.echo(line)


def lines(rows: list[tuple[str, str, str, str]], width: int) -> Iterator[str]:
    """A row a line (key, value, what it takes, what it is), for scripts; where these do not fit into `width` characters
    of a terminal, what is said of a setting stands below it."""
    widths = [min(34, max(len(row[column]) for row in rows)) for column in range(3)]
    whole = [
        f"{key:<{widths[0]}}  {value:<{widths[1]}}  {takes:<{widths[2]}}  {said}" for key, value, takes, said in rows
    ]
    if not width or max(map(len, whole)) <= width:
        yield from whole
        return
    below = {"initial_indent": "    ", "subsequent_indent": "    ", "width": width}
    for key, value, takes, said in rows:
        yield from textwrap.wrap(f"{key} = {value}", width, subsequent_indent="    ")
        yield from textwrap.wrap(f"{takes}: {said}", **below)


def _shown(value: object) -> str:
    """As `--set` takes it: TOML, but for bare words and none."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return f"[{', '.join(_table(one) if isinstance(one, dict) else json.dumps(one) for one in value)}]"
    return value if isinstance(value, str) else json.dumps(value)


def _table(values: dict[str, object]) -> str:
    pairs = (f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None)
    return f"{{{', '.join(pairs)}}}"

"""`fm settings`: what `--set` can change, with types, ranges and the values of a preset."""

import json
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
    widths = [min(34, max(len(row[column]) for row in rows)) for column in range(3)]
    for key, value, takes, description in rows:
        typer.echo(f"{key:<{widths[0]}}  {value:<{widths[1]}}  {takes:<{widths[2]}}  {description}")


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

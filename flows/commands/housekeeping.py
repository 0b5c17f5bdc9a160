"""The command that frees disks: `fm gc`."""

import json
import os
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.asked import AsJson, is_address
from fm.errors import UserError, several

SHOWN = 12  # lines of things in one folder that go or stay for the same reason, at most


def gc(
    place: Annotated[
        str,
        typer.Argument(
            metavar="RUN|CACHE",
            help="Folder of one training, or of a comparison by `fm paper`; `cache` or the folder FM_CACHE names.",
        ),
    ],
    keep: Annotated[
        int | None,
        typer.Option(min=1, help="Newest whole checkpoints to keep. Default: those that the recipe keeps."),
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="DAYS",
            help="Of a cache: only what was not used for so long. Of a RUN: evaluations left unfinished as long, too.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete. Without it: list, and delete nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what could be deleted of a RUN or of this machine's cache, with sizes and reasons; with --yes delete it.

    Never the champion, the best or the newest whole checkpoint, nor one that a reported number cites, nor what is in
    use or unknown. What goes from a cache is fetched or measured again when it is asked for.
    """
    if place != "cache" and not is_address(place) and not os.path.isdir(place):
        raise UserError("no such folder", place, "name a RUN, or `cache`")
    from fm.housekeeping.plan import check
    from fm.housekeeping.tidying import tidied

    done = tidied(place, keep, older_than, yes)
    plan = done.plan
    if as_json:
        told: dict[str, Any] = {"folder": str(plan.root), "kind": done.kind, "deleted": done.deleted}
        told |= {"bytes": plan.bytes, "removals": [*map(_values, plan.removals)]}
        typer.echo(json.dumps(told | {"kept": [*map(_values, plan.kept)], "failed": [*map(_values, plan.failed)]}))
    else:
        _print(done)
    check(plan)


def _values(one: Any) -> dict[str, Any]:
    return {"path": str(one.path), "bytes": one.bytes, "why": one.why}


def _print(done: Any) -> None:
    from fm.estimating.units import in_bytes

    plan = done.plan
    typer.echo(f"{done.kind} {plan.root}\n")
    _print_all("kept:", plan.kept, plan.root)
    _print_all("deleted:" if done.deleted else "would be deleted:", plan.removals, plan.root)
    _print_all("NOT deleted:", plan.failed, plan.root)
    what = f"{in_bytes(plan.bytes)} in {several(len(plan.removals), 'thing')}"
    if done.deleted:
        typer.echo(f"freed {what}")
    elif plan.removals:
        typer.echo(f"{what}; nothing is deleted yet: the same command with --yes does it")
    else:
        typer.echo("nothing to delete")


def _print_all(title: str, found: Iterable[Any], root: Path) -> None:
    """A line each; of many in one folder for the same reason, one for all."""
    from fm.estimating.units import in_bytes

    def of(one: Any) -> tuple[Path, str]:
        return one.path.parent, one.why

    lines = []
    for (folder, why), group in groupby(sorted(found, key=of), key=of):
        alike = [*group]
        if len(alike) > SHOWN:
            size = sum(one.bytes for one in alike)
            lines.append((in_bytes(size), f"{folder.relative_to(root)}/ ({len(alike):,} in it)", why))
        else:
            lines += [(in_bytes(one.bytes), str(one.path.relative_to(root)), why) for one in alike]
    if lines:
        width = max(len(name) for _, name, _ in lines)
        typer.echo("\n".join([title, *(f"{size:>10}  {name:<{width}}  {why}" for size, name, why in lines)]) + "\n")

"""The page of what is beyond the paper: pictures at the fewest evaluations, and the table."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE
from torch import Tensor

from fm.beyond.page import write_page
from fm.beyond.plan import LINES, METHODS, SHOWN_BUDGETS, Line, guided_points
from fm.checkpoints import Saved, kept
from fm.errors import Unfinished, several
from fm.paper.plan import Plan
from fm.paper.trained import Trained
from fm.publishing import publish
from fm.recipe import Recipe, load, opened
from tasks import watching
from tasks.evaluate import evaluate, trained
from tasks.paper import Pictures, options, page_of
from tasks.tracking import Tracking

SHOWN = 3  # pictures at each budget
GUIDES = "guides"  # in OUT


def guided(found: list[Trained], out: Path, parent: Tracking) -> list[Trained]:
    """The same with the rows of guided lines: led away from the first checkpoint that each such training has kept."""
    return [_guided(one, out, parent) if guided_points(one.method.key) and one.rows else one for one in found]


def _guided(one: Trained, out: Path, parent: Tracking) -> Trained:
    run, last = Path(one.where), trained(Path(one.where))
    guide = next(iter(sorted((out / GUIDES).glob(f"{run.name}-*"))), None) or _weaker(run, last, out / GUIDES)
    if guide is None:
        watching.say(f"{run.name} kept no checkpoint to be led away from (training.keep_every_images)")
        return one
    changes = {"evaluation.grid": guided_points(one.method.key), "evaluation.guide": str(guide)}
    recipe = Recipe.load(run, changes)
    with opened(run, recipe, note=False) as folder, parent.member(folder, recipe) as copy:
        try:
            rows = [row for row in evaluate(folder, recipe, last, copy, best=False) if row.get("guidance")]
        except Unfinished as error:
            return replace(one, failed=one.failed or str(error))
    failed = [row for row in rows if "failed" in row]
    why = f"{several(len(failed), 'guided cell')} failed: {failed[0]['failed']}" if failed else ""
    return replace(one, rows=(*one.rows, *(row for row in rows if "failed" not in row)), failed=one.failed or why)


def _weaker(run: Path, last: Saved, guides: Path) -> Path | None:
    """The first checkpoint that RUN has kept, in a folder of its own: it stays the guide whatever is tidied away."""
    weak = next((saved for saved in kept(run) if 0 < saved.images_seen < last.images_seen), None)
    name = f"{run.name}-{weak.images_seen}" if weak else ""
    return publish(run, weak.weights, guides / name, name, ()) if weak else None


@task(name="report", cache_policy=NO_CACHE)
def shown(plan: Plan, given: Pictures, out: Path, found: list[Trained], parent: Tracking) -> Path:
    """OUT/report.html: the table, its curves and the pictures."""

    def write(links: dict[str, str], commands: list[str]) -> list[Path]:
        watching.say("report: pictures of every method at the fewest evaluations")
        return write_page(out, plan, found, _pictures(found), links, commands, given.marked)

    asked = options(plan, given, METHODS, scale=plan.scale, beyond=True)
    return page_of(plan, given, out, found, parent, write, ["paper", *asked])


def _pictures(found: list[Trained]) -> dict[Line, Tensor]:
    """What the first seed of each line draws at each budget, uint8 (budgets, n, c, h, w), all from the same noises."""
    firsts = {one.method.key: load(one.where) for one in found if one.seed == 0 and one.rows}
    there = [line for line in LINES if line.key in firsts and not line.guidance]
    ways: dict[Line, dict[str, Any]] = {line: {"method": line.solver, "grid": line.grid or None} for line in there}
    return {
        line: torch.stack([firsts[line.key].sample(SHOWN, nfe=nfe, **ways[line]) for nfe in SHOWN_BUDGETS])
        for line in there
    }

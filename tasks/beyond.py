"""The page of what is beyond the paper: pictures at the fewest evaluations, and the table."""

from pathlib import Path
from typing import Any

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE
from torch import Tensor

from fm.beyond.page import write_page
from fm.beyond.plan import LINES, METHODS, SHOWN_BUDGETS, Line
from fm.paper.plan import Plan
from fm.paper.trained import Trained
from fm.recipe import load
from tasks import watching
from tasks.paper import Pictures, options, page_of
from tasks.tracking import Tracking

SHOWN = 3  # pictures at each budget


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
    there = [line for line in LINES if line.key in firsts]
    ways: dict[Line, dict[str, Any]] = {line: {"method": line.solver, "grid": line.grid or None} for line in there}
    return {
        line: torch.stack([firsts[line.key].sample(SHOWN, nfe=nfe, **ways[line]) for nfe in SHOWN_BUDGETS])
        for line in there
    }

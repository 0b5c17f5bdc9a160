"""The page of what is beyond the paper: pictures at the fewest evaluations, and the table."""

import shlex
from pathlib import Path
from typing import Any

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE
from torch import Tensor

from fm.beyond.page import write_page
from fm.beyond.plan import LINES, METHODS, SHOWN_BUDGETS, Line
from fm.lineage import code_digest, digest
from fm.paper.plan import Plan
from fm.paper.trained import Trained
from fm.recipe import load
from fm.report import kept
from fm.results import row_file
from tasks import failing, watching
from tasks.paper import Pictures, page_code
from tasks.tracking import Tracking

SHOWN = 3  # pictures at each budget


@task(name="report", cache_policy=NO_CACHE)
def shown(plan: Plan, given: Pictures, out: Path, found: list[Trained], parent: Tracking) -> Path:
    """OUT/report.html: the table, its curves and the pictures, from all members' rows."""
    import fm.beyond

    page = out / "report.html"
    keys = [(one.method.key, one.seed, one.failed, [row["key"] for row in one.rows]) for one in found]
    code = page_code(fm.beyond)
    inputs = digest(keys, [one.trained_by for one in found], given.marked, plan.recipe, plan.seeds, code_digest(), code)
    with parent.stage("report"):
        if kept.stands(out, inputs):
            watching.say(f"report: unchanged (same rows; {page} verified by hash)")
        else:
            watching.say("report: pictures of every method at the fewest evaluations")
            links = {"MLflow": parent.url, "Prefect flow run": watching.flow_run_url()}
            commands = _commands(plan, given, out, found)
            files = write_page(out, plan, found, _pictures(found), links, commands, given.marked)
            kept.keep(out, inputs, files)
            watching.say(f"report: {page} and {len(files) - 1} files beside it")
        parent.figures(page, *sorted((out / "report").glob("*.png")), out / "report" / "table.csv")
    return page


def _pictures(found: list[Trained]) -> dict[Line, Tensor]:
    """What the first seed of each line draws at each budget, uint8 (budgets, n, c, h, w), all from the same noises."""
    firsts = {one.method.key: load(one.where) for one in found if one.seed == 0 and one.rows}
    there = [line for line in LINES if line.key in firsts]
    ways: dict[Line, dict[str, Any]] = {line: {"method": line.solver, "grid": line.grid or None} for line in there}
    return {
        line: torch.stack([firsts[line.key].sample(SHOWN, nfe=nfe, **ways[line]) for nfe in SHOWN_BUDGETS])
        for line in there
    }


def _commands(plan: Plan, given: Pictures, out: Path, found: list[Trained]) -> list[str]:
    """What repeats the table, and one of its rows."""
    asked = {"dataset": plan.dataset.key, "scale": plan.scale, "seeds": plan.seeds, "source": str(given.data)}
    asked |= {"methods": [m.key for m in plan.methods] if len(plan.methods) < len(METHODS) else []}
    asked |= {"changes": plan.changes, "allow_different_data": bool(given.marked), "beyond": True}
    rows = [row_file(Path(one.where), row["key"]) for one in found for row in one.rows]
    again = [shlex.join(["fm", "evaluate", "--rerun", str(row)]) for row in rows[:1]]
    return [shlex.join(["fm", "paper", str(out), *failing.compared(asked)]), *again]

"""`fm demo2d` from names to a page: trains, measures and draws what is not there yet."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from fm.data.plane import Points
from fm.demo2d.measuring import TIMES, Measured, key
from fm.demo2d.plan import PATHS, Plan, recipe
from fm.demo2d.training import make_all
from fm.errors import UserError
from fm.files import alone
from fm.lineage import code_digest, digest
from fm.recipe import PointRecipe, load
from fm.records import read
from fm.report import kept
from fm.report.plane import Section, Trained, tables
from fm.report.plane_page import write_page
from fm.results import Row, aligned

NAMES = {"ot": "OT", "vp": "VP"}
TRUE = 200_000  # true points in the pictures


class Made(NamedTuple):
    """What a demonstration left: its page, its sections, and whether the page was there already."""

    page: Path
    sections: list[Section]
    unchanged: bool

    @property
    def rows(self) -> list[Row]:
        return [row for section in self.sections for trained in section.trained for row in trained.rows]

    def text(self) -> str:
        """The tables and the page's address, for the terminal."""
        parts = []
        for section in self.sections:
            distances, likelihoods = (aligned(lines) for lines in tables(section))
            parts.append(f"{section.name}\n{distances}\n\n{likelihoods}\n")
        state = "unchanged (same rows and code, verified by hash): " if self.unchanged else ""
        return "\n".join([*parts, f"report: {state}{self.page.as_uri()}"])


def run(out: Path, names: Sequence[str], plan: Plan | None = None) -> Made:
    """Everything for these distributions, in OUT/<distribution>-<path> and OUT/report.html.

    Raises: UserError if OUT holds trainings by another recipe, or another process works there.
    """
    plan = plan or Plan()
    jobs = {name: [recipe(name, path, plan) for path in PATHS] for name in names}
    make_all([(out / r.name, r) for recipes in jobs.values() for r in recipes], plan)
    sections = [_section(out, name, recipes, plan) for name, recipes in jobs.items()]
    inputs = digest([row["key"] for s in sections for t in s.trained for row in t.rows], code_digest())
    page = (out / "report.html").resolve()
    with alone(out):
        if kept.stands(out, inputs):
            return Made(page, sections, True)
        settings = {r.name: r.model_dump(mode="json", exclude={"name"}) for recipes in jobs.values() for r in recipes}
        settings["measured"] = plan.model_dump(mode="json", exclude={"model", "training"})
        kept.keep(out, inputs, write_page(out, sections, settings, _next_commands(out, sections)))
    return Made(page, sections, False)


def _section(out: Path, name: str, recipes: Sequence[PointRecipe], plan: Plan) -> Section:
    true = Points(distribution=name).at(torch.arange(TRUE), "pictures")
    return Section(name, true, TIMES, [_trained(out / r.name, r, plan) for r in recipes])


def _trained(run: Path, recipe: PointRecipe, plan: Plan) -> Trained:
    found = Measured.load(run, key(load(run), plan))
    if found is None:
        raise UserError("was measured by other code than this", str(run), "leave fm/ as it is and start again")
    samples = {int(n.split("/")[1]): x for n, x in found.tensors.items() if n.startswith("samples/")}
    return Trained(
        name=NAMES.get(recipe.path.kind, recipe.path.kind),
        path=recipe.path,
        rows=found.rows,
        numbers=found.numbers,
        samples=samples,
        states=found.tensors["states"],
        densities=found.tensors["densities"],
        run=recipe.name,
        seconds=read(run / "records")[-1]["seconds"],
    )


def _next_commands(out: Path, sections: Sequence[Section]) -> list[tuple[str, str]]:
    fm = ".venv/bin/fm" if Path(".venv/bin/fm").exists() else "fm"
    first = sections[0].trained[0].run
    return [
        (f"{fm} demo2d {out} --data all", "all distributions on one page"),
        (f"{fm.replace('fm', 'python')} -c \"import fm; print(fm.load('{out / first}').sample(16, nfe=8))\"", "points"),
    ]

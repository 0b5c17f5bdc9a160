"""What one value of a method is, over its training seeds: which rows count, which of a baseline's forms is the better.

Rows are read, none is made; what a claim does with values is decided in its own module.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from fm.comparing import Cell, Run, run_of
from fm.paper.methods import METHODS, OT, Method
from fm.paper.trained import Trained
from fm.report.comparison_figures import evaluations
from fm.results import SETTLED, SIMILARITIES, Row, apart, distances, number

BASELINES = tuple(dict.fromkeys(m.name for m in METHODS.values() if m.published and m.name != OT))
BLANK = 0.5  # share of the values of samples outside of a picture's from which on they are no images
Value = Callable[[Trained], float | None]


CONVERGED = (
    " It is of networks whose solutions have converged: those at 1e-6 and at 1e-5 end within 1/256, half of a grey"
    " level, of one another (RMS a value)."
)


@dataclass(frozen=True)
class OfSolutions:
    """A value of converged solutions; none where they have not converged."""

    value: Value

    def __call__(self, one: Trained) -> float | None:
        return None if adrift(one) else self.value(one)


def adrift(one: Trained) -> str:
    """Why what counts as converged solutions of a network is none; empty if another fine solution agrees with them."""
    if failed := [row["solution_failed"] for row in one.rows if row.get("solution_failed")]:
        return f"it has no converged solutions: {failed[0]}"
    far = apart(one.rows)
    if far is None:
        return "nothing shows that its solutions have converged (dopri5 at a tolerance of 1e-5 would)"
    words = f"its solutions have not converged: those of two fine tolerances lie {number(far)} apart"
    return "" if far <= SETTLED else words


@dataclass(frozen=True)
class Form:
    """One form of a method with its trainings by seed.

    lacks: why it has no value, if it has none. doubt: which other form has none and may be the better one.
    """

    method: Method
    trained: dict[int, Trained]
    lacks: str = ""
    doubt: str = ""

    @property
    def title(self) -> str:
        return self.method.title


def forms(trained: Sequence[Trained], name: str) -> list[Form]:
    """The forms of a method by its name; one that repeats another's training holds that training."""
    found = []
    for method in (m for m in METHODS.values() if m.name == name):
        mine = {one.seed: one for one in trained if one.method.key in (method.key, method.same_as)}
        found.append(Form(method, dict(sorted(mine.items()))))
    return found


def better(trained: Sequence[Trained], name: str, value: Value, pictures: bool = False) -> Form:
    """The form of a method with the lowest mean of this value over its seeds, all of which have one.

    pictures: forms that draw no images do not count. Where no form has a value: the first one, with the reason.
    """
    there = forms(trained, name)
    lacking = {form.title: _lacks(form, value) for form in there}
    blank = {form.title: _blank(form) if pictures else "" for form in there}
    having = [form for form in there if not lacking[form.title] and not blank[form.title]]
    if not having:
        reasons = [lacking[form.title] or blank[form.title] for form in there]
        return Form(there[0].method, {}, "; ".join(dict.fromkeys(reasons)))
    doubts = [f"{lacks}, and may be the better form" for lacks in lacking.values() if lacks]
    best = min(having, key=lambda form: fmean(values(form, value).values()))
    return replace(best, doubt="; ".join(doubts))


def values(form: Form, value: Value) -> dict[int, float]:
    """The value by training seed, of the seeds that have one."""
    known = {seed: value(one) for seed, one in form.trained.items()}
    return {seed: number for seed, number in known.items() if number is not None}


def _lacks(form: Form, value: Value) -> str:
    """Why a form cannot stand in a comparison; empty if each of its seeds has the value."""
    if not form.trained:
        return f"{form.title} was not trained"
    bare = [one for one in form.trained.values() if value(one) is None]
    return "; ".join(f"{form.title}, seed {one.seed}: {one.failed or _why(one, value)}" for one in bare)


def _why(one: Trained, value: Value) -> str:
    """Why a training has no such value, though nothing of it failed."""
    if value is bits and scored(one):
        return "has not converged"
    return (adrift(one) if isinstance(value, OfSolutions) else "") or "has no value"


def _blank(form: Form) -> str:
    """That samples of a form are no images, with the seed in which they are none; empty if they are, or none tells."""
    for one in form.trained.values():
        outside = mean_of(rows_of(one, sampled(one)), "samples_outside")
        if outside is not None and outside > BLANK:
            share = f"{outside:.0%}".replace("%", " %")
            what = f"draws no images at this size ({share} of its values lie outside of those of a picture)"
            return f"{form.title}, seed {one.seed}: {what}"
    return ""


def run(one: Trained) -> Run | None:
    """The rows of a training as fm.comparing pairs them; None where there are none."""
    return run_of(f"{one.method.title}, seed {one.seed}", one.where, one.rows) if one.rows else None


def sampled(one: Trained) -> Cell | None:
    """The cell of Table 1: dopri5 (joint) at the finest tolerance, of the most samples."""
    own = (cell for cell in _cells(one) if not cell.guidance and not cell.grid)
    cells = [cell for cell in own if cell.solver == "dopri5" and cell.control != "per_sample"]
    return min(cells, key=lambda cell: (cell.tolerance or 0, -(cell.samples or 0)), default=None)


def scored(one: Trained) -> Cell | None:
    """The cell whose rows hold bits/dim, converged or not: of those with the most images the finest tolerance."""
    held = {cell: rows[0] for cell, rows in _cells(one).items() if rows[0].get("nll_converged") is not None}
    return min(held, key=lambda cell: (-held[cell].get("nll_images", 0), cell.tolerance or 0), default=None)


def swept(one: Trained, solver: str) -> list[Cell]:
    """The cells of a solver of fixed steps, by evaluations; of two of one budget that of the most samples."""
    own = (cell for cell in _cells(one) if not cell.guidance and not cell.grid)
    cells = [cell for cell in own if cell.solver == solver and cell.tolerance is None]
    most = max((cell.samples or 0 for cell in cells), default=0)
    return sorted((cell for cell in cells if cell.samples == most), key=lambda cell: cell.nfe or 0)


def _cells(one: Trained) -> dict[Cell, list[Row]]:
    found = run(one)
    return found.cells if found else {}


def rows_of(one: Trained, cell: Cell | None) -> list[Row]:
    """The rows of a cell without failed ones, one of each seed of the evaluation."""
    return [row for row in _cells(one).get(cell, []) if not row.get("failed")] if cell else []


def distance_name(trained: Sequence[Trained]) -> str:
    """The distance that all is judged by: the first one by name that is no similarity; empty if there is none."""
    names = distances(row for one in trained for row in one.rows)
    return next((name for name in names if not name.startswith(SIMILARITIES)), "")


def is_fid(name: str) -> bool:
    """Whether a distance is FID: with Inception's features only."""
    return name.startswith("fd_inception")


def mean_of(rows: Sequence[Row], name: str) -> float | None:
    """The mean of a column; None unless each row has it."""
    known = [row[name] for row in rows if row.get(name) is not None]
    return fmean(known) if known and len(known) == len(rows) else None


def nfe(one: Trained) -> float | None:
    """Evaluations of dopri5 at the finest tolerance, on average over samples."""
    rows = rows_of(one, sampled(one))
    return evaluations(rows) if rows else None


def distance(name: str) -> Value:
    """The distance of that name of dopri5's samples at the finest tolerance."""
    return lambda one: mean_of(rows_of(one, sampled(one)), name)


def bits(one: Trained) -> float | None:
    """Bits/dim of held-out images; None where it has not converged."""
    return mean_of(rows_of(one, scored(one)), "bits_per_dim")

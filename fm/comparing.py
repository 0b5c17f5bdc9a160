"""Trained runs against each other, from their rows alone: what may be compared, by how much it differs, how surely.

Two runs that were measured alike from the same noise are compared paired: sample i of one with sample i of the other,
by the values without each of ten groups of samples that their rows carry. Pictures and pages are made elsewhere.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, NamedTuple

from fm.errors import UserError, ValueUserError, several
from fm.jackknife import GROUPS, STUDENT, variance
from fm.lineage import code_digest
from fm.results import SIMILARITIES, Row, distances, grid_text, guidance_text, number

BITS, GAP = "bits_per_dim", "generalisation_gap"  # of the same images in every seed
ALIKE = "not distinguishable at this sample size"
NO_VALUE = "has no value"
UNTRAINED = "untrained"
SAME = {  # what one measurement has to share with another, and what it is called
    "data": "data",
    "features": "features",
    "features_weights": "a features file",
    "samples": "samples",
    "reference_images": "reference images",
    "reference_split": "reference split",
    "batch": "batch",
    "control": "step control",
    "precision": "precision",
}
NOISE = ("noise", "noise_digest")
LIKELIHOOD = ("nll_images", "nll_k", "nll_probe")


class Cell(NamedTuple):
    """What two rows must share to be compared; `batch` and `control` of adaptive solvers, of which they are a part."""

    solver: str
    nfe: int | None
    tolerance: float | None
    data: str | None = None
    features: str | None = None
    features_weights: str | None = None
    samples: int | None = None
    reference_images: int | None = None
    reference_split: str = "heldout"
    batch: int | None = None
    control: str | None = None
    precision: str = "fp32"
    guidance: str = ""  # in words
    grid: str = ""
    low_size: int | None = None  # of super-resolution

    @property
    def budget(self) -> tuple[str, int | None, float | None]:
        return self.solver, self.nfe, self.tolerance

    def __str__(self) -> str:
        if self.tolerance is None:
            return f"{self.solver} {self.nfe}{grid_text(self.grid)}{self.guidance}"
        return f"{self.solver} at {self.tolerance:g}" + " per sample" * (self.control == "per_sample") + self.guidance


def cell_of(row: Row) -> Cell:
    """The cell of a row."""
    shared: dict[str, Any] = {
        name: row.get(name) for name in ("data", "features", "features_weights", "samples", "reference_images")
    }
    shared |= {"precision": row.get("precision", "fp32"), "reference_split": row.get("reference_split", "heldout")}
    guided = row.get("guidance") or 0.0, row.get("guidance_interval", (0.0, 1.0)), row.get("guide", "")
    shared |= {"guidance": guidance_text(*guided), "low_size": row.get("low_size"), "grid": row.get("chosen_grid", "")}
    if row.get("tolerance") is None:
        return Cell(row["solver"], row.get("nfe"), None, **shared)
    return Cell(row["solver"], None, row["tolerance"], **shared, batch=row.get("batch"), control=row.get("control"))


@dataclass(frozen=True)
class Run:
    """A trained network's rows, cell by cell, each in the order of its seeds; `where` is what the user calls it."""

    name: str
    where: str
    cells: dict[Cell, list[Row]]
    weights: str = ""
    left_out: int = 0  # rows of other weights

    @property
    def rows(self) -> list[Row]:
        return [row for rows in self.cells.values() for row in rows]


def run_of(name: str, where: str, rows: Sequence[Row]) -> Run:
    """The rows of a RUN's newest measured weights; of a cell that was measured twice, this code's row counts.

    Where one code measured a cell in several rows, each of them other distances, they are taken together.

    Raises: UserError if there are none of trained weights.
    """
    trained = [row for row in rows if row.get("method") != UNTRAINED]
    if not trained:
        raise UserError("holds no rows to compare", where, f"evaluate it first: `fm evaluate {where}`")
    last = max(trained, key=lambda row: (row.get("images_seen") or 0, row.get("code") == code_digest()))
    weights = last.get("weights")
    newest = [row for row in trained if row.get("weights", weights) == weights]
    cells: dict[Cell, dict[int, Row]] = {}
    for row in sorted(newest, key=_standing):
        whole = _completed(row, newest) if row.get("failed") else row
        seeds, seed = cells.setdefault(cell_of(whole), {}), row.get("seed") or 0
        seeds[seed] = seeds[seed] | whole if _same_code(seeds.get(seed), whole) else whole
    ordered = {cell: [seeds[seed] for seed in sorted(seeds)] for cell, seeds in sorted(cells.items(), key=_place)}
    return Run(name, where, ordered, weights or "", len(trained) - len(newest))


def _completed(row: Row, rows: Sequence[Row]) -> Row:
    """A failed row with what it was asked to be and the other rows say of how it was to be measured."""
    asked = json.loads(row["cell"]) if "cell" in row else {}
    keys = [key for key in SAME if key != "control"]
    found = {key: other[key] for other in [asked, *rows] for key in keys if other.get(key) is not None}
    own = {"batch": asked.get("batch"), "precision": asked.get("sampling_precision")}
    return found | {key: value for key, value in own.items() if value is not None} | row


def _standing(row: Row) -> tuple[Any, ...]:
    """A later one of the same cell and seed takes its place."""
    return not row.get("failed"), row.get("code") == code_digest(), row.get("nll_images") or 0


def _same_code(one: Row | None, other: Row) -> bool:
    keys = ("code", "torch")
    return one is not None and not one.get("failed") and all(one.get(key) == other.get(key) for key in keys)


def _place(item: tuple[Cell, Any]) -> tuple[Any, ...]:
    cell = item[0]
    return cell.tolerance is not None, cell.solver, cell.nfe or 0, -(cell.tolerance or 0), cell.samples or 0, str(cell)


def names_of(places: Sequence[str]) -> list[str]:
    """A short name for each RUN: its folder's, or as much of its path as tells it from the others.

    Raises: ValueUserError for fewer than two, or the same one twice.
    """
    if len(places) < 2:
        raise ValueUserError("is one RUN alone", "".join(places), "name another to compare it with")
    parts = [place.rstrip("/").split("/") for place in places]
    for i, part in enumerate(parts):
        if part in parts[:i]:
            raise ValueUserError("is named twice", places[i], "name another RUN")
    for length in range(1, max(map(len, parts))):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return ["/".join(part) for part in parts]


class Summary(NamedTuple):
    """A quantity of one run in one cell: its mean over seeds, half its 95 % interval, s.d. over seeds and the best."""

    value: float
    half: float | None
    deviation: float | None
    best: float
    seeds: int


def summary(rows: Sequence[Row], name: str) -> Summary | None:
    """The rows of one cell, a seed each, together; None where none has a value.

    Half-intervals of distances add as variances do; those of bits/dim, of the same images each time, are averaged.
    """
    having = [row for row in rows if row.get(name) is not None]
    if not having:
        return None
    values, known = [row[name] for row in having], [h for row in having if (h := _half(row, name)) is not None]
    half = None
    if len(known) == len(values):
        half = fmean(known) if name.startswith((BITS, GAP)) else math.hypot(*known) / len(known)
    best = max(values) if name.startswith(SIMILARITIES) else min(values)
    return Summary(fmean(values), half, stdev(values) if len(values) > 1 else None, best, len(values))


def _half(row: Row, name: str) -> float | None:
    if row.get(f"{name}_low") is not None:
        return (row[f"{name}_high"] - row[f"{name}_low"]) / 2
    stderr = row.get(f"{name}_stderr")
    return None if stderr is None else 1.96 * stderr


def floor(rows: Sequence[Row], name: str) -> float | None:
    """What as many real pictures get in this cell."""
    return next((row[f"{name}_floor"] for row in rows if row.get(f"{name}_floor") is not None), None)


@dataclass(frozen=True)
class Paired:
    """`other` minus `baseline` in one cell: means over the seeds that both have, half of the paired 95 % interval.

    `better` names the run that is, if they can be told apart; without a difference the verdict says why.
    """

    quantity: str
    cell: Cell
    baseline: str
    other: str
    verdict: str
    values: tuple[float, float] | None = None
    difference: float | None = None
    half: float | None = None
    seeds: tuple[int, ...] = ()
    better: str = ""


def paired(quantity: str, cell: Cell, baseline: Run, other: Run) -> Paired:
    """Two runs in one cell that both have, paired by seed and sample index.

    The jackknife of the difference of what leaving out each group gives, with Student's t of nine degrees of freedom.
    Of several seeds the differences are averaged; of distances, whose noise is another in each seed, the variances too,
    divided by the number of seeds; of bits/dim, whose images are the same, what leaving out each group gives.
    """
    both = (baseline, other)
    by_seed = [{row.get("seed") or 0: row for row in run.cells[cell]} for run in both]
    pairs = {seed: (by_seed[0][seed], by_seed[1][seed]) for seed in by_seed[0] if seed in by_seed[1]}
    lacking = {seed: _lacking(quantity, both, pair) for seed, pair in pairs.items()}
    usable = {seed: pair for seed, pair in pairs.items() if not lacking[seed]}
    names = baseline.name, other.name
    if not usable:
        why = next(iter(lacking.values()), "drawn with other seeds: evaluate both with the same")
        known = [summary(run.cells[cell], quantity) for run in both]
        alone = (known[0].value, known[1].value) if known[0] and known[1] else None
        return Paired(quantity, cell, *names, why, alone)
    values = fmean(a[quantity] for a, _ in usable.values()), fmean(b[quantity] for _, b in usable.values())
    difference, half = values[1] - values[0], STUDENT * math.sqrt(_variance(quantity, list(usable.values())))
    better = ""
    if abs(difference) > half:
        lower = names[1] if difference < 0 else names[0]
        better = next(name for name in names if (name != lower) == quantity.startswith(SIMILARITIES))
    verdict = f"{better} is better by {number(abs(difference))}" if better else ALIKE
    return Paired(quantity, cell, *names, verdict, values, difference, half, tuple(usable), better)


def _variance(quantity: str, pairs: Sequence[tuple[Row, Row]]) -> float:
    """The variance of the difference's mean over seeds, a pair of rows each."""
    name = f"{quantity}_without"
    differences = [[y - x for x, y in zip(a[name], b[name], strict=True)] for a, b in pairs]
    if quantity == BITS:
        differences = [[fmean(group) for group in zip(*differences, strict=True)]]
    return sum(map(variance, differences)) / len(differences) ** 2


def _lacking(quantity: str, runs: tuple[Run, Run], pair: tuple[Row, Row]) -> str:
    """Why two rows cannot be paired, or nothing."""
    sides = list(zip(runs, pair, strict=True))
    for run, row in sides:
        if row.get("failed"):
            return f"{run.name} failed: {row['failed']}"
    for run, row in sides:
        if row.get(quantity) is None:
            return f"{run.name} {'has not converged' if row.get('nll_converged') is False else NO_VALUE}"
        if quantity != BITS and row.get("samples_not_finite"):
            return (
                f"{several(row['samples_not_finite'], 'sample')} of {run.name} not finite: the others have no partners"
            )
    if not all(row[f"{quantity}_without"] for row in pair):
        return f"too few images for {GROUPS} groups"
    one, other = pair
    if any(one.get(key) != other.get(key) for key in (LIKELIHOOD if quantity == BITS else NOISE)):
        return "of other images or draws: evaluate both alike" if quantity == BITS else "drawn from other noise"
    return ""


def quantities(rows: Iterable[Row]) -> list[str]:
    """What these rows hold that can be compared: distances, then bits/dim."""
    rows = list(rows)
    return distances(rows) + [BITS] * any(row.get("nll_converged") is not None for row in rows)


@dataclass(frozen=True)
class Comparison:
    """Runs, the first one the baseline of all others; `notes` say in a line each what could not be compared."""

    runs: list[Run]
    paired: list[Paired]
    notes: list[str] = field(default_factory=list)

    @property
    def cells(self) -> list[Cell]:
        """All cells, in the order of the tables."""
        return [cell for cell, _ in sorted({cell: 0 for run in self.runs for cell in run.cells}.items(), key=_place)]

    @property
    def quantities(self) -> list[str]:
        return quantities(row for run in self.runs for row in run.rows)

    def best(self, cell: Cell, quantity: str) -> str:
        """The name of the run that is better in this cell than each of the others, paired; empty if none is."""
        there = [run for run in self.runs if cell in run.cells and summary(run.cells[cell], quantity)]
        for run in there:
            others = [other for other in there if other is not run]
            if others and all(paired(quantity, cell, run, other).better == run.name for other in others):
                return run.name
        return ""


def compare(runs: Sequence[Run]) -> Comparison:
    """The first run against each of the others in every cell that both have; a note for what one has no value of.

    Raises: UserError if none of them shares a cell with the first.
    """
    baseline, *others = runs
    found, notes = [], [f"{run.where}: {_left_out(run.left_out)}" for run in runs if run.left_out]
    for other in others:
        both = [cell for cell in baseline.cells if cell in other.cells]
        held = {cell: quantities([*baseline.cells[cell], *other.cells[cell]]) for cell in both}
        for name in quantities([*baseline.rows, *other.rows]):
            pairs = [paired(name, cell, baseline, other) for cell in both if name in held[cell]]
            bare = {run.where: [p for p in pairs if p.verdict == f"{run.name} {NO_VALUE}"] for run in (baseline, other)}
            found += [pair for pair in pairs if not any(pair in of for of in bare.values())]
            notes += [_valueless(where, of, len(of) == len(pairs)) for where, of in bare.items() if of]
        notes += [str(note) for note in unmatched(baseline, other)]
    if not any(cell in other.cells for other in others for cell in baseline.cells):
        raise unmatched(baseline, others[0])[0]
    return Comparison(list(runs), found, list(dict.fromkeys(notes)))


def _valueless(where: str, pairs: Sequence[Paired], everywhere: bool) -> str:
    """That a run has no value of one quantity in these cells."""
    cells = "" if everywhere else f" in {_named([pair.cell for pair in pairs])}"
    return str(UserError(f"{NO_VALUE} of {pairs[0].quantity}{cells}", where, "evaluate both alike"))


def _left_out(count: int) -> str:
    return f"{several(count, 'row')} of other weights {'is' if count == 1 else 'are'} left out"


def unmatched(baseline: Run, other: Run) -> list[UserError]:
    """What two runs cannot be compared in, and how to mend it, in a sentence each."""
    for key in ("data", "features", "features_weights"):
        one, two = ({getattr(cell, key) for cell in run.cells} - {None} for run in (baseline, other))
        if one and two and one.isdisjoint(two):
            return [_of_other(key, baseline, other, min(one), min(two))]
    found = []
    for here, there in ((baseline, other), (other, baseline)):
        missing = []
        for cell in here.cells.keys() - there.cells.keys():
            if near := next((c for c in there.cells if c.budget == cell.budget), None):
                if there is other and near not in here.cells:
                    found.append(_differing(cell, near, here, there))
            else:
                missing.append(cell)
        if missing:
            found.append(_missing(sorted(missing, key=lambda cell: _place((cell, 0))), here, there))
    return found


def _of_other(key: str, baseline: Run, other: Run, one: str, two: str) -> UserError:
    what = f"was measured with {SAME[key]} {two[:32]}, {baseline.where} with {one[:32]}"
    mend = "compare RUNs that were measured on one DATA" if key == "data" else "evaluate both with the same"
    return UserError(what, other.where, mend)


def _differing(cell: Cell, near: Cell, here: Run, there: Run) -> UserError:
    pairs = {words: (getattr(cell, key), getattr(near, key)) for key, words in SAME.items()}
    words = [f"{name} {theirs}, not {ours}" for name, (ours, theirs) in pairs.items() if ours != theirs]
    return UserError(
        f"{cell} was measured with {' and '.join(words)} as {here.where}", there.where, "evaluate both alike"
    )


def _named(cells: Sequence[Cell]) -> str:
    """`euler 2, euler 4`, each once; where several features are there, `euler 2 (features x, y) and euler 4 (...)`."""
    features = {str(cell): sorted({c.features or "" for c in cells if str(c) == str(cell)}) for cell in cells}
    if len({cell.features for cell in cells}) == 1:
        return ", ".join(features)
    alike: dict[str, list[str]] = {}
    for name, theirs in features.items():
        alike.setdefault(", ".join(filter(None, theirs)), []).append(name)
    return " and ".join(", ".join(of) + f" (features {theirs})" * bool(theirs) for theirs, of in alike.items())


def _missing(cells: Sequence[Cell], here: Run, there: Run) -> UserError:
    what = f"has no row of {_named(cells)} to compare with {here.where}"
    fixed = [cell for cell in cells if cell.tolerance is None]
    if not fixed:
        return UserError(what, there.where, "evaluate it with the same evaluation.grid")
    solvers, budgets = (",".join(map(str, dict.fromkeys(c))) for c in zip(*[c.budget[:2] for c in fixed], strict=True))
    counts = sorted({cell.samples for cell in fixed if cell.samples})
    samples = f" --samples {counts[-1]}" if counts else ""
    return UserError(what, there.where, f"`fm evaluate {there.where} --solvers {solvers} --nfe {budgets}{samples}`")

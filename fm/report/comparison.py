"""The tables of a comparison of runs, as text, and what a reader has to know of them."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fm.comparing import BITS, GAP, Cell, Comparison, Paired, Run, floor, summary
from fm.jackknife import STUDENT
from fm.results import SIMILARITIES, Row, csv_table, label, number


@dataclass(frozen=True)
class Column:
    """A column of the table of runs; `quantity` is what its values are of, `paper` whether a paper's table has it."""

    heading: str
    text: Callable[[Run, Sequence[Row]], str]
    quantity: str = ""
    paper: bool = False


def columns(comparison: Comparison) -> list[Column]:
    """What is told of each run in each cell; a column that would be empty is left out."""
    several = any(len(rows) > 1 for run in comparison.runs for rows in run.cells.values())
    found = [
        Column("run", lambda run, rows: run.name, paper=True),
        Column("method", _word("method"), paper=True),
        Column("solver", lambda run, rows: _solver(rows[0]), paper=True),
        Column("NFE", lambda run, rows: _nfe(rows), paper=True),
        Column("samples", _word("samples")),
    ]
    for name in comparison.quantities:
        found.append(Column(heading(name), lambda run, rows, name=name: value_text(rows, name), name, True))  # type: ignore[misc]
        if several:
            found.append(Column("s.d.", lambda run, rows, name=name: _over_seeds(rows, name, "deviation")))  # type: ignore[misc]
            best = "maximum" if name.startswith(SIMILARITIES) else "minimum"
            found.append(Column(best, lambda run, rows, name=name: _over_seeds(rows, name, "best")))  # type: ignore[misc]
        if name != BITS:
            found.append(Column("floor", lambda run, rows, name=name: _floor(rows, name), paper=True))  # type: ignore[misc]
            found.append(Column("ratio to floor", lambda run, rows, name=name: _ratio(rows, name)))  # type: ignore[misc]
    found.append(Column("generalisation gap", lambda run, rows: _gap(rows)))
    lines = list(_lines(comparison))
    return [column for column in found if any(column.text(run, rows) for _, run, rows in lines)]


def _lines(comparison: Comparison) -> list[tuple[Cell, Run, list[Row]]]:
    """Cell by cell, in it run by run."""
    return [(c, run, run.cells[c]) for c in comparison.cells for run in comparison.runs if c in run.cells]


def lines_of(comparison: Comparison, shown: Sequence[Column]) -> list[tuple[Cell, Run, list[str]]]:
    """A line of these columns for each cell and run."""
    return [(cell, run, [column.text(run, rows) for column in shown]) for cell, run, rows in _lines(comparison)]


def runs_table(comparison: Comparison) -> list[list[str]]:
    """A line for each run: what it is."""
    lines = [["run", "method", "path", "images seen", "weights", "precision", "where"]]
    for run in comparison.runs:
        told = {key: [row[key] for row in run.rows if row.get(key)] for key in ("method", "path", "images_seen")}
        first = {key: values[0] if values else "" for key, values in told.items()}
        seen = f"{first['images_seen']:,}" if first["images_seen"] else "not told"
        precision = ", ".join(sorted({cell.precision for cell in run.cells}))
        lines.append([run.name, first["method"], first["path"], seen, run.weights[:8], precision, run.where])
    return lines


def cells_table(comparison: Comparison) -> list[list[str]]:
    """The table of all measurements as text: the headings, then cell by cell a line for each run."""
    shown = columns(comparison)
    return [[column.heading for column in shown], *(texts for *_, texts in lines_of(comparison, shown))]


def _word(key: str) -> Callable[[Run, Sequence[Row]], str]:
    return lambda run, rows: str(rows[0].get(key) or "")


def heading(name: str) -> str:
    """What a quantity is called in a table."""
    return "bits/dim" if name == BITS else name


def _solver(row: Row) -> str:
    """`euler`, or `dopri5 at 0.001 (batch 64, joint)`: what an adaptive solver's NFE depends on."""
    if row.get("tolerance") is None:
        return str(row["solver"])
    return f"{label(row)} (batch {row.get('batch')}, {row.get('control')})"


def _nfe(rows: Sequence[Row]) -> str:
    """`8`; of an adaptive solver the most that a batch took, and the mean over samples."""
    having = [row for row in rows if row.get("nfe") is not None]
    most, means = max((row["nfe"] for row in having), default=""), [row.get("nfe_mean") for row in having]
    known = [mean for mean in means if mean is not None]
    if not known or rows[0].get("tolerance") is None:
        return str(most)
    return f"{most}, mean {sum(known) / len(known):.1f}"


def value_text(rows: Sequence[Row], name: str) -> str:
    """`399 ± 21`: the mean over seeds with half of its 95 % interval; or that it failed, or has not converged."""
    found = summary(rows, name)
    if found is None:
        if all(row.get("failed") for row in rows):
            return "failed"
        return "not converged" if name == BITS and any(row.get("nll_converged") is False for row in rows) else ""
    return _number(found.value, name) + (f" ± {_number(found.half, name)}" if found.half is not None else "")


def _number(value: float, name: str) -> str:
    return f"{value:.3f}" if name == BITS else number(value)


def _over_seeds(rows: Sequence[Row], name: str, what: str) -> str:
    found = summary(rows, name)
    if found is None or found.seeds == 1:
        return ""
    return _number(getattr(found, what), name)


def _floor(rows: Sequence[Row], name: str) -> str:
    found = floor(rows, name)
    return "" if found is None else number(found)


def _ratio(rows: Sequence[Row], name: str) -> str:
    found, real = summary(rows, name), floor(rows, name)
    return f"{found.value / real:.2f}" if found and real and real > 0 and not name.startswith(SIMILARITIES) else ""


def _gap(rows: Sequence[Row]) -> str:
    """Held-out minus training bits/dim; its interval takes the two sets of images as independent, as they are.

    All seeds score the same two sets: the standard errors are averaged over them.
    """
    found = summary(rows, GAP)
    if found is None:
        return ""
    return f"{found.value:+.3f}" + ("" if found.half is None else f" ± {found.half:.3f}")


def paired_table(comparison: Comparison) -> list[list[str]]:
    """The first run against each other, cell by cell, with verdicts."""
    names = [run.name for run in comparison.runs]
    two, several = len(names) == 2, any(len(pair.seeds) > 1 for pair in comparison.paired)
    others = names[1:] if two else ["other run", "its value"]
    lines = [
        ["quantity", "solver", *others[: not two], names[0], others[-1], "difference", *["seeds"] * several, "verdict"]
    ]
    for pair in comparison.paired:
        values = [_number(value, pair.quantity) for value in pair.values] if pair.values else ["", ""]
        seeds = [str(len(pair.seeds) or "")] * several
        words = [heading(pair.quantity), str(pair.cell), *[pair.other] * (not two)]
        lines.append([*words, *values, difference_text(pair), *seeds, pair.verdict])
    return lines


def difference_text(pair: Paired) -> str:
    """`-20.0 ± 19.5`, the other run minus the baseline."""
    if pair.difference is None or pair.half is None:
        return ""
    sign = "+" if pair.difference > 0 else ""
    return f"{sign}{_number(pair.difference, pair.quantity)} ± {_number(pair.half, pair.quantity)}"


def pair_values(pair: Paired) -> dict[str, Any]:
    """A paired comparison as flat values, for JSON and CSV."""
    first, second = pair.values or (None, None)
    low, high = (
        (None, None)
        if pair.difference is None or pair.half is None
        else (pair.difference - pair.half, pair.difference + pair.half)
    )
    cell = {name: value for name, value in pair.cell._asdict().items() if value is not None}
    told = {"quantity": pair.quantity, "baseline": pair.baseline, "other": pair.other, **cell}
    told |= {"baseline_value": first, "other_value": second, "difference": pair.difference}
    told |= {"difference_low": low, "difference_high": high, "seeds": " ".join(map(str, pair.seeds))}
    return told | {"better": pair.better, "verdict": pair.verdict}


def csv_of(comparison: Comparison) -> str:
    """Every key of every compared row with its run, full precision."""
    return csv_table([{"run": run.name, **row} for run in comparison.runs for row in run.rows])


def paired_csv(comparison: Comparison) -> str:
    """Every paired comparison, full precision."""
    lines = [pair_values(pair) for pair in comparison.paired]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def table_note() -> str:
    """What a reader of both tables has to know."""
    return (
        "± is half of a 95 % interval. Of a single value it holds the chance in its samples (jackknife over ten groups,"
        " sample i in group i modulo ten), of bits/dim that in its images. Differences are paired: both runs start from"
        " the same noise, sample by sample, and for bits/dim see the same images, so that what they share drops out;"
        f" their intervals are the jackknife's of the difference, with Student's t of nine degrees of freedom"
        f" ({STUDENT}). Over several seeds differences are averaged. Each seed of a distance draws other noise:"
        " its variances are averaged and divided by the number of seeds. All seeds of bits/dim and of the"
        " generalisation gap score the same images, and more of them do not narrow an interval: what leaving out each"
        " group gives is averaged over the seeds first, and so are the standard errors of single values. Each interval"
        " is for itself: of twenty true ones, one is expected to miss. The chance in the training (another seed there)"
        " is in none of them."
    )

"""The table beyond the paper: a line for each way to train and solve, a column for each budget, each figure told from
that of FM w/ OT by Euler with as many evaluations. Rows are read, none is made.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from fm.beyond.plan import BUDGETS, LINES, Line
from fm.comparing import Run, cell_of, paired
from fm.paper.methods import OT
from fm.paper.reading import distance_name, mean_of, rows_of, sampled, scored
from fm.paper.trained import Trained
from fm.results import Row, bits_text, number

BETTER, WORSE, UNPAIRED = "better", "worse", "not paired"
NOTE = (
    "Means over training seeds of the distance to held-out images, lower is better; the columns are evaluations"
    f" (NFE). Beside a figure stands better or worse where, in each training seed, it differs from that of {OT} by"
    " Euler with as many evaluations (of dopri5: by dopri5) by more than the 95 % interval of the difference, paired"
    " by noise; one that is not told apart stands alone, and one of other noise is not paired. A star is at the"
    " lowest of a column, and at those that not every training seed tells from it so; what is not paired has none."
    " Jumps are no flow: what they draw has no likelihood, and the bits/dim of such a network are those of its"
    f" velocity, by dopri5. Reflow goes on from the weights of {OT}, on images that these drew, and its images seen"
    " and seconds are its own alone. Autoguidance leads away from the first checkpoint that the same training kept,"
    " at two evaluations a step. Seconds are of the training, by the clock: of a machine that does other work beside"
    " it they compare nothing."
)


class Figure(NamedTuple):
    """A cell of the table: mean over seeds, whether it is better or worse than the baseline in each of them, and
    whether it is not told apart from the lowest of its column."""

    value: float | None
    verdict: str = ""
    leads: bool = False

    def __str__(self) -> str:
        verdict = f" ({self.verdict})" if self.verdict else ""
        return "" if self.value is None else f"{number(self.value)}{' *' * self.leads}{verdict}"


def at_budget(trained: Sequence[Trained], line: Line, nfe: int) -> dict[int, Row]:
    """The row of each training seed at a budget; of one step those of the solver's own grid, for all are the same."""
    grid = line.grid if nfe > 1 else ""
    found: dict[int, Row] = {}
    for one in (one for one in trained if one.method.key == line.key):
        for row in one.rows:
            same = (row["solver"], row.get("chosen_grid", ""), row["nfe"]) == (line.solver, grid, nfe)
            same = same and (row.get("guidance") or 0.0) == line.guidance
            if same and row["tolerance"] is None and "failed" not in row:
                found.setdefault(one.seed, row)
    return found


def adaptive(trained: Sequence[Trained], key: str) -> dict[int, Row]:
    """The row of each training seed by dopri5 at the finest tolerance."""
    of = [one for one in trained if one.method.key == key]
    return {one.seed: rows[0] for one in of if (rows := rows_of(one, sampled(one)))}


def figure(rows: dict[int, Row], baseline: dict[int, Row], name: str) -> Figure:
    """The figure of some rows by training seed beside the baseline's."""
    values = [row[name] for row in rows.values() if row.get(name) is not None]
    if not values or len(values) < len(rows):
        return Figure(None)
    told = [_told(baseline[seed], row, name) for seed, row in rows.items() if seed in baseline]
    same = set(told) if len(told) == len(rows) else {""}
    return Figure(fmean(values), same.pop() if len(same) == 1 else "")


def _told(baseline: Row, row: Row, name: str) -> str:
    """Whether a row is better or worse than the baseline's, of the same noise whatever the solver, or not paired; empty
    if neither: each side has the name of the verdict that its winning would be."""
    if row is baseline or row["key"] == baseline["key"]:
        return ""
    cell = cell_of(baseline)
    found = paired(name, cell, *(Run(side, side, {cell: [one]}) for side, one in ((WORSE, baseline), (BETTER, row))))
    return found.better if found.difference is not None else UNPAIRED


def figures(trained: Sequence[Trained]) -> dict[Line, dict[str, Figure]]:
    """Of each line that was measured its figures by column: each budget, and dopri5."""
    name, base = distance_name(trained), LINES[0]
    rows = {line: _columns(trained, line) for line in LINES}
    there = [line for line, own in rows.items() if any(found for key, found in own.items() if key != "1")]
    found = {line: {key: figure(own, rows[base][key], name) for key, own in rows[line].items()} for line in there}
    for key in rows[base]:
        there_too = {line: own[key] for line, own in found.items() if key in own and own[key].value is not None}
        known = {line: one.value or 0.0 for line, one in there_too.items() if one.verdict != UNPAIRED}
        best = min(known, key=lambda line: known[line], default=base)
        for line in known:
            both = rows[best][key].keys() & rows[line][key].keys()
            told = {_told(rows[best][key][seed], rows[line][key][seed], name) for seed in both}
            found[line][key] = found[line][key]._replace(leads=told not in ({WORSE}, {UNPAIRED}, set()))
    return found


def _columns(trained: Sequence[Trained], line: Line) -> dict[str, dict[int, Row]]:
    """The rows of a line by column and training seed."""
    own = {str(nfe): at_budget(trained, line, nfe) for nfe in BUDGETS}
    return own | ({"dopri5": adaptive(trained, line.key)} if line.plain else {})


def table(trained: Sequence[Trained]) -> list[list[str]]:
    """The table as text, headings first, the floor below them."""
    name, found = distance_name(trained), figures(trained)
    columns = [*map(str, BUDGETS), "dopri5"]
    head = ["method", "seeds", *columns, "NFE of dopri5", "bits/dim", "images seen", "seconds"]
    shown = [[at_budget(trained, line, nfe) for line in LINES] for nfe in BUDGETS]
    shown.append([adaptive(trained, line.key) for line in LINES])
    floors = [_floor(name, [row for rows in column for row in rows.values()]) for column in shown]
    lines = [["real training images (the floor)", "", *floors, *[""] * 4]]
    for line, own in found.items():
        of = [one for one in trained if one.method.key == line.key and one.rows]
        whole = [*_whole(of), *_cost(of)] if line.plain else [""] * 4
        lines.append([line.title, str(len(of)), *(str(own.get(key, Figure(None))) for key in columns), *whole])
    return [head, *lines]


def _floor(name: str, rows: Sequence[Row]) -> str:
    """What as many real training images get as the rows have samples."""
    floors = [row[f"{name}_floor"] for row in rows if row.get(f"{name}_floor") is not None]
    return number(max(floors)) if floors else ""


def _whole(of: Sequence[Trained]) -> list[str]:
    """NFE of dopri5 and bits/dim, means over seeds."""
    rows = [rows_of(one, sampled(one))[:1] for one in of]
    nfe = mean_of([row for own in rows for row in own], "nfe_mean")
    bits = [found[0] for one in of if (found := rows_of(one, scored(one)))]
    text = bits_text(bits[0]) if len(bits) == 1 else _bits(bits)
    return [number(nfe) if nfe else "", text]


def _bits(rows: Sequence[Row]) -> str:
    mean = mean_of(rows, "bits_per_dim")
    return "" if not rows else "not converged" if mean is None else f"{mean:.3f}"


def _cost(of: Sequence[Trained]) -> list[str]:
    """Images seen and seconds of the training, means over seeds."""
    last = [one.records[-1] for one in of if one.records]
    seen, seconds = mean_of(last, "images_seen"), mean_of(last, "seconds")
    return [f"{seen:,.0f}" if seen else "", f"{seconds:,.0f}" if seconds else ""]

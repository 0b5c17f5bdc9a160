"""The page of averages of many lengths: which of them draws best, for each strength of guidance."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from fm.report import page
from fm.report.figures import COLOURS, MARKERS, axes_of_a_page, level, plain_log, png_of
from fm.results import SIMILARITIES, Row, csv_table, distance_text, distances, floor_text, label, worse

NOTE = (
    "Each line is the same training with another average of its weights; all draw from the same noises. The length is"
    " the standard deviation of the average's profile as a share of the training (Karras et al. 2024); the profile's"
    " error says how far what was made of the kept averages is from it. Of the average that the training itself"
    " kept there is no length. Choosing the best of many by their distance favours it a little: its interval is of one."
)


class Measured(NamedTuple):
    """Rows of one average: its length and its profile's relative error, none of the training's own; its folder."""

    length: float | None
    error: float | None
    where: str
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        return "the training's own" if self.length is None else f"{self.length:g}"


def best(measured: Sequence[Measured]) -> tuple[Measured, Row]:
    """The row that is nearest to the real images by the first distance, and its average."""
    pairs = [(one, row) for one in measured for row in one.rows]
    name = distances([row for _, row in pairs])[0]
    return min(pairs, key=lambda pair: worse(pair[1], name))


def table(measured: Sequence[Measured]) -> list[list[str]]:
    """As text, headings first: a line for each average and point."""
    names = distances([row for one in measured for row in one.rows])
    head = ["length", "profile error", "point", "NFE", *[word for name in names for word in (name, "floor")]]
    winner = best(measured)[1]["key"]
    lines = []
    for one in measured:
        for row in one.rows:
            error = "" if one.error is None else f"{one.error:.1%}"
            told = [text(row, name) for name in names for text in (distance_text, floor_text)]
            mark = " (best)" if row["key"] == winner else ""
            lines.append([f"{one.title}{mark}", error, label(row), str(row["nfe"]), *told])
    return [head, *lines]


def sweep(measured: Sequence[Measured]) -> bytes:
    """The first distance by length, a curve for each point, with 95 % intervals; the training's own as levels."""
    name = distances([row for one in measured for row in one.rows])[0]
    drawing, axes = axes_of_a_page()
    for i, point in enumerate(dict.fromkeys(label(row) for one in measured for row in one.rows)):
        colour = COLOURS[i % len(COLOURS)]
        at = [(one.length, row) for one in measured for row in one.rows if label(row) == point]
        made = [(length, row) for length, row in at if length is not None]
        y = [row[name] for _, row in made]
        bars = [
            [row[name] - row[f"{name}_low"] for _, row in made],
            [row[f"{name}_high"] - row[name] for _, row in made],
        ]
        style: dict[str, Any] = {"color": colour, "marker": MARKERS[i % len(MARKERS)], "label": point}
        axes.errorbar([length for length, _ in made], y, yerr=bars, capsize=4, linewidth=1.8, markersize=7, **style)
        for length, row in at:
            if length is None:
                level(axes, row[name], f"the training's own, {point}")
    axes.set_xscale("log")
    plain_log(axes.xaxis)
    axes.set_xlabel("EMA length, share of the training")
    axes.set_ylabel(f"{name}\n({'higher' if name.startswith(SIMILARITIES) else 'lower'} is better)")
    axes.legend(frameon=False)
    return png_of(drawing)


def write_page(
    out: Path, title: str, measured: Sequence[Measured], links: Mapping[str, str], commands: Sequence[tuple[str, str]]
) -> list[Path]:
    """Writes OUT/report.html (self-contained) and OUT/report -> all files written, the page first."""
    one, row = best(measured)
    png, caption = sweep(measured), "Distance by the length of the average; bars are 95 % intervals."
    rows = [row for one in measured for row in one.rows]
    name = distances(rows)[0]
    said = f"Nearest by {name}: {one.title}, {label(row)}, at {distance_text(row, name)}."
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(said)}</p>",
        page.figure((png, "sweep"), caption),
        page.html_table(table(measured)),
        f"<p class=soft>{escape(NOTE)}</p>",
        *page.try_next(commands, links),
        page.details("Where every number comes from", page.lineage(rows)),
    ]
    beside: page.Beside = {"table.csv": csv_table(rows), "sweep.json": {"table": table(measured), "note": NOTE}}
    return page.written(out, page.document(title, body), {"sweep": (png, caption)}, beside)

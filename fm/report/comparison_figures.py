"""Pictures of several runs side by side -> PNG bytes: curves, one line for each run, and labelled sheets of images."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fm.comparing import Cell, Comparison, Summary, floor, summary
from fm.report.figures import (
    COLOURS,
    GAP,
    MARKERS,
    enlarged,
    level,
    nfe_ticks,
    picture_png,
    plain,
    plain_log,
    png_of,
)
from fm.results import SIMILARITIES, Row, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = ("-", (0, (6, 2)), (0, (1.5, 1.5)))  # past six runs the colours begin again, with another line
ACROSS = 3  # panels
FONT, LINE = 14, 18  # pixels


def curves(comparison: Comparison, quantity: str, words: str, floors: bool = False) -> bytes:
    """A quantity against evaluations a sample, a panel for each solver, a line for each run; bars are 95 % intervals.

    `floors` draws what real images get. Only what two runs or more were measured in alike is shown.
    """
    panels = shown_in(comparison, quantity)
    figure, grid = _panels(len(panels))
    positive = True
    for axes, (kind, cells) in zip(grid, panels.items(), strict=False):
        values = _lines(axes, comparison, quantity, cells)
        positive = positive and min(values) > 0
        if floors and (real := _floor(comparison, quantity, cells)) is not None:
            level(axes, real, f"floor: {number(real)}")
            positive = positive and real > 0
        axes.set_title(_title(kind, adaptive=cells[0].tolerance is not None), fontsize=11)
    if positive and not quantity.startswith(SIMILARITIES):
        grid[0].set_yscale("log")
        plain_log(grid[0].yaxis)
    grid[0].set_ylabel(words)
    _legend(figure, grid)
    return png_of(figure)


def shown_in(comparison: Comparison, quantity: str) -> dict[Cell, list[Cell]]:
    """The cells of each panel of `curves`, by what they share; those that fewer than two runs have are left out."""
    panels: dict[Cell, list[Cell]] = {}
    for cell in comparison.cells:
        having = [run for run in comparison.runs if cell in run.cells and summary(run.cells[cell], quantity)]
        if len(having) > 1:
            panels.setdefault(cell._replace(nfe=None, tolerance=None), []).append(cell)
    return panels


def _lines(axes: "Axes", comparison: Comparison, quantity: str, cells: Sequence[Cell]) -> list[float]:
    """Each run's line in one panel -> all its values, with the ends of their bars."""
    ends, ticks, count = [], set(), len(comparison.runs)
    for i, run in enumerate(comparison.runs):
        points: list[tuple[float, Summary]] = []
        for cell in cells:
            rows = run.cells.get(cell, [])
            if found := summary(rows, quantity):
                points.append((evaluations([row for row in rows if row.get(quantity) is not None]), found))
        if not points:
            continue
        apart = 1.025 ** (i - (count - 1) / 2)  # or bars at one budget would hide each other
        y, bars = [p.value for _, p in points], [p.half or 0.0 for _, p in points]
        axes.errorbar([nfe * apart for nfe, _ in points], y, yerr=bars, label=run.name, **style(i))
        ends += [value - bar for value, bar in zip(y, bars, strict=True)]
        ticks |= {nfe for nfe, _ in points}
    if cells[0].tolerance is None:
        nfe_ticks(axes, [int(tick) for tick in sorted(ticks)])
    axes.set_xlabel("NFE")
    return ends


def evaluations(rows: Sequence[Row]) -> float:
    """Evaluations a sample, on average over samples and seeds."""
    return sum(row.get("nfe_mean") or row["nfe"] for row in rows) / len(rows)


def style(i: int) -> dict[str, Any]:
    """How run i is drawn: colour, marker and line."""
    line = LINES[i // len(COLOURS) % len(LINES)]
    look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "linestyle": line}
    return look | {"capsize": 3, "linewidth": 1.8, "markersize": 6}


def _floor(comparison: Comparison, quantity: str, cells: Sequence[Cell]) -> float | None:
    found = (floor(run.cells.get(cell, []), quantity) for cell in cells for run in comparison.runs)
    return next((value for value in found if value is not None), None)


def _title(kind: Cell, adaptive: bool) -> str:
    batch = f", batch {kind.batch}" + " per sample" * (kind.control == "per_sample") if adaptive else ""
    return f"{kind.solver}{batch}, {kind.samples} samples"


def nfe_over_training(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """What an adaptive solver costs while the networks train: a line for each run and tolerance."""
    figure, grid = _panels(1)
    for i, (name, rows) in enumerate(records.items()):
        for j, tolerance in enumerate(sorted({row["tolerance"] for row in rows}, reverse=True)):
            points = [(row["images_seen"] / 1000, row["nfe"]) for row in rows if row["tolerance"] == tolerance]
            look = {key: value for key, value in style(i).items() if key != "capsize"}
            look |= {"linestyle": LINES[j % len(LINES)], "label": f"{name}, tolerance {tolerance:g}"}
            grid[0].plot(*zip(*points, strict=True), **look)
    grid[0].set(xlabel="thousand images seen", ylabel="network evaluations a sample (NFE)")
    grid[0].set_ylim(bottom=0)
    _legend(figure, grid)
    return png_of(figure)


def _panels(count: int) -> tuple[Any, list["Axes"]]:
    from matplotlib.figure import Figure

    across = min(count, ACROSS)
    down = -(-count // across)
    figure = Figure(figsize=(11.4 if across > 2 else 9.6, 3.6 * down + 0.5), dpi=130, layout="constrained")
    grid = list(figure.subplots(down, across, sharey=True, squeeze=False).flat)
    for axes in grid[count:]:
        axes.remove()
    for axes in grid[:count]:
        plain(axes)
    return figure, grid[:count]


def _legend(figure: Any, grid: Sequence["Axes"]) -> None:
    """Each run once, below all panels."""
    named = {words: line for axes in grid for line, words in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncol=4, frameon=False)


def sheet(
    tiles: Tensor,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    under: Callable[[int, int, int, int], str] | None = None,
    tile: int = 72,
) -> bytes:
    """A PNG of uint8 tiles (down, rows, across, columns, c, h, w): blocks of rows x columns, set apart.

    `rows` stand at the left of each block row, `columns` above all; `under` gives the words under a tile.
    """
    down, high, across, wide = tiles.shape[:4]
    font = ImageFont.load_default(FONT)
    side = enlarged(tiles[0, 0, 0, 0], tile).size
    left = int(max((font.getlength(words) for words in rows), default=0)) + 12 * bool(rows)
    step = side[0] + GAP, side[1] + GAP + LINE * (under is not None)
    block = wide * step[0] + 6 * GAP, high * step[1] + 6 * GAP
    head = LINE + 6 if columns else 0
    size = left + across * block[0] - 7 * GAP, head + down * block[1] - 7 * GAP
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    for a in range(across):
        for c, words in enumerate(columns):
            at = left + a * block[0] + c * step[0] + side[0] / 2, head / 2
            pen.text(at, words, fill="black", anchor="mm", font=font)
    for d, r, a, c in (
        (d, r, a, c) for d in range(down) for r in range(high) for a in range(across) for c in range(wide)
    ):
        x, y = left + a * block[0] + c * step[0], head + d * block[1] + r * step[1]
        picture.paste(enlarged(tiles[d, r, a, c], tile), (x, y))
        if under:
            words = under(d, r, a, c)
            pen.text((x + side[0] / 2, y + side[1] + LINE / 2), words, fill="black", anchor="mm", font=font)
        if rows and not a and not c:
            pen.text((left - 10, y + side[1] / 2), rows[r], fill="black", anchor="rm", font=font)
    return picture_png(picture)

"""Images, rows and records -> PNG bytes. Pure functions; matplotlib is imported inside them, without any display."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fm.results import SIMILARITIES, UNIFORM_BITS, Row, in_order, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours: told apart by colour-blind readers too; each solver also has its own marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "D", "^", "v", "P")
GREY = "#5f6368"
GAP = 2  # white pixels between tiles
UNTRAINED = "untrained"


def image_grid(images: Tensor, columns: int = 8, tile: int = 96) -> bytes:
    """A PNG of uint8 images (n, c, h, w), row by row, each enlarged by a whole factor to about `tile` pixels."""
    tiles = [enlarged(image, tile) for image in images]
    width, height = tiles[0].size
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for i, picture in enumerate(tiles):
        sheet.paste(picture, (i % columns * (width + GAP), i // columns * (height + GAP)))
    return picture_png(sheet)


def trajectory_strip(states: Tensor, times: Sequence[float], tile: int = 96) -> bytes:
    """A PNG of uint8 states (times, n, c, h, w): a row for each sample, noise at the left, data at the right."""
    grid = Image.open(io.BytesIO(image_grid(states.transpose(0, 1).flatten(0, 1), len(times), tile)))
    head = 30
    sheet = Image.new("RGB", (grid.width, grid.height + head), "white")
    sheet.paste(grid, (0, head))
    pen, step = ImageDraw.Draw(sheet), (grid.width + GAP) / len(times)
    for i, t in enumerate(times):
        words = {0: "t = 0, noise", len(times) - 1: "t = 1, image"}.get(i, f"t = {t:.2g}")
        pen.text(((i + 0.5) * step, head / 2), words, fill="black", anchor="mm", font=ImageFont.load_default(14))
    return picture_png(sheet)


def loss_curve(records: Sequence[Mapping[str, Any]], name: str = "loss") -> bytes:
    """Training loss against images seen: each record faintly, and their running mean over a twentieth of the run."""
    points = [(r["images_seen"] / 1000, r[name]) for r in records if r.get(name) is not None]
    x, y = [p[0] for p in points], [p[1] for p in points]
    figure, axes = axes_of_a_page()
    axes.plot(x, y, color=COLOURS[0], alpha=0.3, linewidth=1, label="each report")
    axes.plot(x, _smoothed(y), color=COLOURS[0], linewidth=2, label="running mean")
    axes.set(xlabel="thousand images seen", ylabel="training loss")
    axes.set_yscale("log")
    plain_log(axes.yaxis)
    axes.legend(frameon=False)
    return png_of(figure)


def distance_by_nfe(rows: Sequence[Row], name: str) -> bytes:
    """A distance against evaluations a sample, with 95 % intervals, the untrained network and the floor."""
    figure, axes = axes_of_a_page()
    for style, group in _by_solver([r for r in rows if r.get(name) is not None], counts=True):
        y = [r[name] for r in group]
        bars = [[r[name] - r[f"{name}_low"] for r in group], [r[f"{name}_high"] - r[name] for r in group]]
        axes.errorbar([r["nfe"] for r in group], y, yerr=bars, capsize=4, linewidth=1.8, markersize=7, **style)
    level(axes, untrained(rows, name), "untrained network")
    for count in sorted({r["samples"] for r in rows if r.get(f"{name}_floor") is not None}, reverse=True):
        floor = next(r[f"{name}_floor"] for r in rows if r["samples"] == count)
        level(axes, floor, f"floor: {count} real training images")
    similarity = name.startswith(SIMILARITIES)
    levels = [r[key] for r in rows for key in (name, f"{name}_floor") if r.get(key) is not None]
    if not similarity and all(level > 0 for level in levels):
        axes.set_yscale("log")
        plain_log(axes.yaxis)
    axes.set_ylabel(f"{name}\n({'higher' if similarity else 'lower'} is better)")
    _nfe_axis(axes, rows)
    return png_of(figure)


def error_by_nfe(rows: Sequence[Row]) -> bytes:
    """A solver's own error against evaluations a sample: RMS per value from the converged solution, both axes log."""
    figure, axes = axes_of_a_page()
    measured = [row for row in rows if row.get("solution_error")]
    for style, group in _by_solver(measured):
        bars = [row["solution_error_stderr"] or 0 for row in group]
        nfe, error = [row["nfe_mean"] for row in group], [row["solution_error"] for row in group]
        axes.errorbar(nfe, error, yerr=bars, capsize=4, linewidth=1.8, markersize=7, **style)
    axes.set_yscale("log")
    axes.set_ylabel("RMS distance to the converged solution\n(lower is better)")
    _nfe_axis(axes, measured)
    return png_of(figure)


def bits_by_nfe(rows: Sequence[Row]) -> bytes:
    """Bits/dim against evaluations a sample; where it has not converged stands a cross at the top, without a value."""
    figure, axes = axes_of_a_page()
    measured = [r for r in rows if r.get("nll_converged") is not None]
    levels = [r["bits_per_dim"] for r in measured if r["bits_per_dim"] is not None] + [UNIFORM_BITS]
    low, unit = min(levels), 0.08 * (max(levels) - min(levels) + 1)
    top = max(levels) + 2 * unit  # crosses stand above all values, one line a solver
    for style, group in _by_solver(measured):
        good = [r for r in group if r["nll_converged"]]
        bars = [r["bits_per_dim_stderr"] for r in good]
        nfe, y = [r["nfe"] for r in good], [r["bits_per_dim"] for r in good]
        axes.errorbar(nfe, y, yerr=bars, capsize=4, linewidth=1.8, markersize=7, **style)
        if lost := [r["nfe"] for r in group if not r["nll_converged"]]:
            axes.scatter(lost, [top] * len(lost), marker="x", s=60, color=style["color"], linewidth=2)
            top += unit
    if any(not r["nll_converged"] for r in measured):
        axes.text(
            0.01, top, "x = not converged: no value", transform=axes.get_yaxis_transform(), color=GREY, fontsize=10
        )
        top += unit
    axes.set_ylim(low - 2 * unit, top)
    level(axes, UNIFORM_BITS, "uniform noise: 8 bits/dim")
    level(axes, untrained(rows, "bits_per_dim"), "untrained network")
    axes.set_ylabel("bits/dim of held-out images\n(lower is better)")
    _nfe_axis(axes, measured)
    return png_of(figure)


def _by_solver(rows: Sequence[Row], counts: bool = False) -> list[tuple[dict[str, Any], list[Row]]]:
    """The trained rows of each method and solver, with the line's style; `counts` names those with fewer samples."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in in_order(rows):
        if row["method"] != UNTRAINED:
            groups.setdefault((row["method"], label(row)), []).append(row)
    several = len({method for method, _ in groups}) > 1
    most = max((row["samples"] for row in rows if counts), default=0)
    styled = []
    for i, ((method, solver), group) in enumerate(groups.items()):
        words = f"{method}, {solver}" if several else solver
        words += f" ({group[0]['samples']} samples)" if group[0]["samples"] < most else ""
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "label": words}
        styled.append((style, group))
    return styled


def untrained(rows: Sequence[Row], name: str) -> float | None:
    """The untrained network's best value: a baseline no reader can call too weak."""
    return min((r[name] for r in rows if r["method"] == UNTRAINED and r.get(name) is not None), default=None)


def level(axes: "Axes", value: float | None, words: str) -> None:
    """A dashed line across the plot with its name on it."""
    if value is None:
        return
    axes.axhline(value, color=GREY, linestyle=(0, (5, 4)), linewidth=1.2, zorder=0)
    place = axes.get_yaxis_transform()
    axes.annotate(
        words, (0.99, value), (0, 3), xycoords=place, textcoords="offset points", ha="right", color=GREY, fontsize=10
    )


def _nfe_axis(axes: "Axes", rows: Sequence[Row]) -> None:
    nfe_ticks(axes, sorted({r["nfe"] for r in rows if r["method"] != UNTRAINED}))
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncol=3)


def nfe_ticks(axes: "Axes", ticks: Sequence[int]) -> None:
    """A logarithmic axis of evaluations with these budgets on it."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    if ticks:
        axes.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
    axes.set_xlabel("network evaluations a sample (NFE)")


def plain_log(axis: Any) -> None:
    """Ticks at 1, 2, 3, 5 written out: 10^2 as the one label on an axis says little."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 3, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def axes_of_a_page() -> tuple[Any, "Axes"]:
    # The object interface, not pyplot: no global state, safe in the threads of a flow.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    plain(axes)
    return figure, axes


def plain(axes: "Axes") -> None:
    """Two spines and faint levels: no ink that says nothing."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def png_of(figure: Any) -> bytes:
    """A drawn figure as PNG."""
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor="white")
    return out.getvalue()


def _smoothed(values: Sequence[float]) -> list[float]:
    window = max(1, len(values) // 20)
    return [sum(part) / len(part) for i in range(len(values)) for part in [values[max(0, i + 1 - window) : i + 1]]]


def enlarged(image: Tensor, tile: int) -> Image.Image:
    """The exact pixels, each as a square: smoothing would flatter the samples."""
    pixels = image.expand(3, -1, -1).permute(1, 2, 0).contiguous().to("cpu", torch.uint8)
    picture = Image.fromarray(pixels.numpy(), "RGB")
    factor = max(1, round(tile / picture.width))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def picture_png(picture: Image.Image) -> bytes:
    """A picture as PNG."""
    out = io.BytesIO()
    picture.save(out, format="PNG", optimize=True)
    return out.getvalue()

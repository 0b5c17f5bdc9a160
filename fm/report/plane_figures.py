"""Pictures of paths and flows in the plane -> PNG bytes. Pure functions."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fm.data.plane import EXTENT
from fm.paths import Path
from fm.report.figures import COLOURS, GREY, MARKERS, plain_log, png_of
from fm.results import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 8.4  # inches, at 150 dots each: sharp at the page's width
FIELD_TIMES = (0.0, 1 / 3, 2 / 3, 0.9)
TARGET = (1.0, 0.5)  # the data point x_1 of the conditional pictures
NOISES = 14  # of the picture of conditional trajectories
CELL = 0.125  # side of a density's cell
LINES = 120  # trajectories in a picture
GRIDS = {"uniform": "even in t", "log_snr": "even in log-SNR"}  # of steps
Field = Callable[[Tensor, float], Tensor]  # points (n, 2), time -> vectors (n, 2)


def conditional_fields(paths: Mapping[str, Path]) -> dict[str, Field]:
    """The conditional velocity of each path, and of diffusion paths the score, which their networks used to learn."""
    fields: dict[str, Field] = {}
    for name, path in paths.items():
        fields[f"{name}\nvelocity"] = partial(_velocity, path)
        if path.kind != "ot":
            fields[f"{name}\nscore"] = partial(_score, path)
    return fields


def _target(x: Tensor) -> Tensor:
    return torch.tensor(TARGET).to(x).expand_as(x)


def _velocity(path: Path, x: Tensor, t: float) -> Tensor:
    return path.conditional_velocity(x, _target(x), torch.tensor(t))


def _score(path: Path, x: Tensor, t: float) -> Tensor:
    mean, std = path.mean_std(_target(x), torch.tensor(t))
    return (mean - x) / std**2


def square(count: int) -> Tensor:
    """The centres of count x count cells of the square, row by row from below: (count^2, 2)."""
    at = (torch.arange(count) + 0.5) / count * 2 * EXTENT - EXTENT
    return torch.stack(torch.meshgrid(at, at, indexing="xy"), 2).reshape(-1, 2)


def fields(paths: Mapping[str, Path]) -> bytes:
    """Figure 2: a row for each conditional field, a column for each time; arrows are directions, colours strengths."""
    from matplotlib.colors import LogNorm

    shown = conditional_fields(paths)
    figure, panels = _panels(
        len(shown), len(FIELD_TIMES), rows=list(shown), columns=[f"t = {t:.2g}" for t in FIELD_TIMES]
    )
    fine, coarse = square(90), square(13)
    for row, field in zip(panels, shown.values(), strict=True):
        for axes, t in zip(row, FIELD_TIMES, strict=True):
            strength = field(fine, t).norm(dim=1).reshape(90, 90)
            image = axes.imshow(strength, norm=LogNorm(0.1, 1000, clip=True), cmap="YlGnBu", **_PLACE)
            arrows = torch.nn.functional.normalize(field(coarse, t), dim=1)
            axes.quiver(*coarse.T, *arrows.T, scale=17, width=0.007, color="#202124", pivot="mid")
            axes.plot(*TARGET, marker="*", markersize=11, color=COLOURS[1], markeredgecolor="white")
    figure.colorbar(image, ax=panels, label="strength (length of the vector)", shrink=0.7, aspect=30)
    return png_of(figure)


def conditional_paths(paths: Mapping[str, Path], noises: Tensor) -> bytes:
    """Figure 3: how each path takes the same noises (n, 2) to one data point; dots at equal steps of time."""
    figure, panels = _panels(1, len(paths), columns=list(paths), bar=1.1)
    for axes, path in zip(panels[0], paths.values(), strict=True):
        states = conditional_states(path, noises[:NOISES], 200)
        _draw_lines(axes, states, width=2.4)
        axes.set(xlim=(-1.9, 1.9), ylim=(-1.9, 1.9))
        for state in states[::20]:
            axes.scatter(*state.T, s=5, color="#202124", linewidth=0, zorder=3)
        axes.scatter(*states[0].T, s=26, facecolor="white", edgecolor="#202124", linewidth=1, zorder=4)
        axes.plot(*TARGET, marker="*", markersize=15, color=COLOURS[1], markeredgecolor="white", zorder=5)
    _time_bar(figure, panels)
    return png_of(figure)


def conditional_states(path: Path, noises: Tensor, steps: int) -> Tensor:
    """The conditional flow of noises (n, 2) to TARGET at steps + 1 even times: (steps + 1, n, 2)."""
    times = torch.linspace(0, path.t_max, steps + 1)
    return torch.stack([path.sample(noises, _target(noises), t).x_t for t in times])


def learned_paths(states: Mapping[str, Tensor], truth: Tensor) -> bytes:
    """Figure 3 for the trained networks: trajectories (times, n, 2) over the true points' density (cells, cells)."""
    figure, panels = _panels(1, len(states), columns=list(states), bar=1.1)
    for axes, lines in zip(panels[0], states.values(), strict=True):
        axes.imshow(truth, cmap="Greys", vmin=0, vmax=2.5 * float(truth.max()), **_PLACE)
        _draw_lines(axes, lines[:, :LINES], width=0.9)
        axes.scatter(*lines[0, :LINES].T, s=7, facecolor="white", edgecolor="#202124", linewidth=0.6, zorder=3)
        axes.scatter(*lines[-1, :LINES].T, s=7, color="#202124", zorder=4)
    _time_bar(figure, panels)
    return png_of(figure)


def histogram(x: Tensor) -> Tensor:
    """The density of points (n, 2) in square cells, (cells, cells) from below; what lies outside is left out."""
    count = round(2 * EXTENT / CELL)
    index = ((x + EXTENT) / CELL).floor().long()
    inside = ((index >= 0) & (index < count)).all(1)
    cells = torch.bincount(index[inside, 1] * count + index[inside, 0], minlength=count**2)
    return cells.reshape(count, count) / (len(x) * CELL**2)


def densities(shown: Mapping[str, Tensor], times: Sequence[float], truth: Tensor) -> bytes:
    """Figure 4, left: a row for each set of states (times, n, 2), a column for each time; colours as for the truth."""
    from matplotlib.colors import PowerNorm

    # By the root: else the noise of a distribution with high peaks is black.
    scale = PowerNorm(0.5, vmin=0, vmax=1.3 * float(truth.max()), clip=True)
    figure, panels = _panels(len(shown), len(times), rows=list(shown), columns=[f"t = {t:g}" for t in times])
    for row, states in zip(panels, shown.values(), strict=True):
        for axes, state in zip(row, states, strict=True):
            axes.imshow(histogram(state), cmap="magma", norm=scale, **_PLACE)
    return png_of(figure)


def samples(drawn: Mapping[str, Mapping[int, Tensor]], truth: Tensor) -> bytes:
    """Figure 4, right: a row for each path, a column for each number of evaluations, and true points beside them."""
    columns = sorted(next(iter(drawn.values())))
    names = [*(f"NFE {nfe}" for nfe in columns), "true points"]
    figure, panels = _panels(len(drawn), len(names), rows=list(drawn), columns=names)
    for i, (row, by_nfe) in enumerate(zip(panels, drawn.values(), strict=True)):
        for axes, nfe in zip(row, columns, strict=False):
            axes.scatter(*by_nfe[nfe].T, s=0.5, color=COLOURS[i], linewidth=0)
        row[-1].scatter(*truth[: len(by_nfe[columns[0]])].T, s=0.5, color=GREY, linewidth=0)
    return png_of(figure)


def points(x: Tensor) -> bytes:
    """Points (n, 2) in one panel."""
    figure, ((axes,),) = _panels(1, 1)
    axes.scatter(*x.T, s=3, color=COLOURS[0], linewidth=0)
    return png_of(figure)


def distances(rows: Sequence[Row]) -> bytes:
    """Energy distance against evaluations, a line for each path and grid, with 95 % intervals and the floor."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    fixed = [row for row in rows if row["tolerance"] is None]
    methods = list(dict.fromkeys(row["method"] for row in fixed))
    for method, grid in dict.fromkeys((row["method"], row["grid"]) for row in fixed):
        group = [row for row in fixed if (row["method"], row["grid"]) == (method, grid)]
        y = [row["energy"] for row in group]
        bars = [[r["energy"] - r["energy_low"] for r in group], [r["energy_high"] - r["energy"] for r in group]]
        style: dict[str, Any] = {"color": COLOURS[methods.index(method)], "marker": MARKERS[methods.index(method)]}
        style |= {"linestyle": "-" if grid == "uniform" else ":", "label": f"{method}, {GRIDS[grid]}"}
        beside = 1.02 if methods.index(method) else 1 / 1.02  # so that no bar hides another
        axes.errorbar([r["nfe"] * beside for r in group], y, yerr=bars, capsize=3, linewidth=1.8, markersize=5, **style)
    axes.set_yscale("log")
    axes.set_xscale("log", base=2)
    axes.minorticks_off()
    plain_log(axes.yaxis)
    floor = rows[0]["energy_floor"]
    axes.axhline(floor, color=GREY, linestyle=(0, (5, 4)), linewidth=1.2, zorder=0)
    words, place = f"floor: {rows[0]['samples']} other true points", axes.get_yaxis_transform()
    axes.annotate(words, (0.01, floor), (0, 4), xycoords=place, textcoords="offset points", color=GREY)
    if floor > 0:
        axes.set_ylim(bottom=floor / 5)
    ticks = sorted({row["nfe"] for row in fixed})
    axes.set(xlabel="network evaluations a sample (NFE), midpoint", ylabel="energy distance to true points")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.legend(frameon=False)
    return png_of(figure)


_PLACE: dict[str, Any] = {"extent": (-EXTENT, EXTENT, -EXTENT, EXTENT), "origin": "lower", "interpolation": "nearest"}


def _panels(
    count: int, wide: int, rows: Sequence[str] = (), columns: Sequence[str] = (), bar: float = 0.0
) -> tuple[Any, Any]:
    """Square panels without ticks: row names at the left, column names above; `bar` inches for a bar of colours."""
    from matplotlib.figure import Figure

    side = (WIDTH - 0.5 * bool(rows) - bar) / wide
    figure = Figure(figsize=(WIDTH, side * count + 0.3), dpi=150, layout="constrained")
    panels = figure.subplots(count, wide, squeeze=False)
    for axes in panels.flat:
        axes.set(xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT), xticks=(), yticks=(), aspect="equal")
        for spine in axes.spines.values():
            spine.set_color("#c8ccd1")
    for row, name in zip(panels, rows, strict=False):
        row[0].set_ylabel(name, fontsize=11)
    for axes, name in zip(panels[0], columns, strict=False):
        axes.set_title(name, fontsize=11)
    return figure, panels


def _draw_lines(axes: "Axes", states: Tensor, width: float) -> None:
    """Each trajectory as pieces whose colour is their time."""
    from matplotlib.collections import LineCollection

    pieces = torch.stack([states[:-1], states[1:]], 2).transpose(0, 1).flatten(0, 1)  # (n * steps, 2 ends, 2)
    lines = LineCollection(list(pieces.numpy()), cmap="viridis_r", linewidths=width, capstyle="round")
    lines.set_array(torch.linspace(0, 1, len(states) - 1).repeat(states.shape[1]).numpy())
    axes.add_collection(lines)


def _time_bar(figure: Any, panels: Any) -> None:
    from matplotlib.cm import ScalarMappable

    figure.colorbar(ScalarMappable(cmap="viridis_r"), ax=panels, label="t: noise 0, data 1", shrink=0.7, aspect=30)

"""A figure for each claim -> PNG bytes: every training seed is drawn, a method has one colour in all of them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fm.paper.behaviour import by_tenth, settled, way, way_half
from fm.paper.effort import errors, solved
from fm.paper.methods import METHODS, TABLE_1, Method
from fm.paper.plan import SWEEP, Plan
from fm.paper.reading import Value, bits, distance, distance_name, is_fid, mean_of, nfe, rows_of, scored, swept
from fm.paper.trained import Trained
from fm.report.comparison_figures import sheet
from fm.report.figures import COLOURS, GREY, MARKERS, nfe_ticks, plain, plain_log, png_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = (*dict.fromkeys(method.name for method in reversed(METHODS.values()) if method.published), "FM w/ VE")
DOTS = "dot: a training seed, bar: their mean"
CROSS = "; cross: published"
GAP = 0.25  # between the bands of the gradient norms, in powers of ten
WAYS = {
    "appears": "t from which the image shows",
    "bend": "bend (0: straight, even speed)",
    "detour": "detour (length by distance)",
    "backtracking": "turning back (by distance)",
}
WAYS_OF = {"appears": ("appears",), "straight": ("bend", "detour"), "backtracking": ("backtracking",)}  # by claim
WAYS_CAPTION = "of solutions that have converged; bars are 95 % intervals over samples, of each training by itself"
Points = Callable[[Trained], Sequence[tuple[float, float]]]
Shown = dict[str, tuple[bytes, str]]  # the claim's key -> PNG, caption


def drawn(plan: Plan, trained: Sequence[Trained]) -> Shown:
    """The figures of all claims that there is something to draw of."""
    name = distance_name(trained)
    figures = published(plan)
    made: dict[str, tuple[Callable[[], bytes | None], str]] = {
        "nfe": (
            lambda: dots(trained, nfe, "NFE of dopri5", figures("nfe")),
            DOTS + CROSS * bool(figures("nfe")),
        ),
        "distance": (
            lambda: dots(trained, distance(name), name, figures("fid") if is_fid(name) else {}),
            DOTS + CROSS * bool(is_fid(name) and figures("fid")),
        ),
        "nll": (
            lambda: dots(trained, bits, "bits/dim", figures("nll")),
            DOTS + f"{CROSS}, at its K" * bool(figures("nll")),
        ),
        "error": (
            lambda: swept_curves(trained, errors, "RMS error against the\nconverged solution"),
            "a line for each seed whose solutions have converged, without points that more evaluations do not improve",
        ),
        "low-nfe": (
            lambda: swept_curves(trained, lambda one, solver: _distances(one, solver, name), name),
            "a line for each seed",
        ),
        "along": (
            lambda: curves(trained, lambda one: _along(one, name), name, log=True),
            "a line for each seed; the same samples of the same noise at each kept checkpoint",
        ),
        "stability": (
            lambda: stability(trained),
            "a line for each seed; means are of the last three quarters",
        ),
        **{key: (partial(ways, trained, names), WAYS_CAPTION) for key, names in WAYS_OF.items()},
        "generalisation": (
            lambda: generalisation(trained),
            "each seed: hollow of training images, full of held-out ones",
        ),
        "solving": (lambda: curves(trained, solved, "NFE of dopri5", log=False), "a line for each seed"),
    }
    pictures = {key: (draw(), caption) for key, (draw, caption) in made.items()}
    return {key: (png, f"{caption[0].upper()}{caption[1:]}.") for key, (png, caption) in pictures.items() if png}


def published(plan: Plan) -> Callable[[str], dict[str, float]]:
    """The published figures of the data set by method, of one kind of Table 1."""
    figures = TABLE_1.get(plan.dataset.key, {})
    return lambda kind: {name: v for name, row in figures.items() if (v := getattr(row, kind)) is not None}


def look(method: Method) -> dict[str, Any]:
    """A method's colour and marker; a scaled form has a dashed line."""
    i = NAMES.index(method.name)
    return {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": "--" if method.form == "scaled" else "-"}


def _methods(trained: Iterable[Trained]) -> list[Method]:
    """The methods that were trained, OT first."""
    there = {one.method.key: one.method for one in trained}
    return sorted(there.values(), key=lambda method: (NAMES.index(method.name), method.form))


def _figure(across: int, size: tuple[float, float], **shared: Any) -> tuple[Any, list["Axes"]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=130, layout="constrained")
    grid = list(figure.subplots(1, across, squeeze=False, **shared).flat)
    for axes in grid:
        plain(axes)
    return figure, grid


def _legend(figure: Any, methods: Sequence[Method]) -> None:
    """Each method once, below all panels."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], linewidth=1.8, markersize=6, label=method.title, **look(method)) for method in methods]
    figure.legend(handles=lines, loc="outside lower center", ncol=4, frameon=False)


def dots(trained: Sequence[Trained], value: Value, words: str, beside: Mapping[str, float]) -> bytes | None:
    """A line for each method with a dot for each training seed, and a cross where a figure is published."""
    known = [(one, number) for one in trained if (number := value(one)) is not None]
    if not known:
        return None
    methods = _methods(one for one, _ in known)
    figure, (axes,) = _figure(1, (7.2, 0.45 * len(methods) + 1.3))
    for i, method in enumerate(methods):
        own = [number for one, number in known if one.method == method]
        axes.plot([fmean(own)] * 2, [i - 0.28, i + 0.28], color=look(method)["color"], linewidth=2.5)
        axes.scatter(own, [i] * len(own), color=look(method)["color"], marker=look(method)["marker"], s=45, alpha=0.75)
        if method.name in beside:
            axes.scatter(beside[method.name], i, marker="x", color=GREY, s=50)
    _down(axes, methods)
    axes.set_xlabel(f"{words} (lower is better)")
    return png_of(figure)


def _down(axes: "Axes", methods: Sequence[Method]) -> None:
    """Methods from the top to the bottom."""
    axes.set_yticks(range(len(methods)), [method.title for method in methods])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)


def swept_curves(
    trained: Sequence[Trained], points: Callable[[Trained, str], Sequence[tuple[float, float]]], words: str
) -> bytes | None:
    """A panel for each solver of fixed steps: a quantity against NFE on logarithmic axes, a line for each training."""
    having = [one for one in trained if any(points(one, solver) for solver in SWEEP)]
    if not having:
        return None
    figure, grid = _figure(len(SWEEP), (11.4, 4.4), sharey=True)
    for axes, solver in zip(grid, SWEEP, strict=True):
        ticks = set()
        for one in having:
            found = points(one, solver)
            axes.plot(*_columns(found), linewidth=1.2, markersize=4.5, **look(one.method))
            ticks |= {int(budget) for budget, _ in found}
        axes.set_title(solver, fontsize=11)
        axes.set_yscale("log")
        nfe_ticks(axes, sorted(ticks))
        axes.set_xlabel("NFE")
    if words != distance_name(trained):
        grid[0].set_ylabel(words)
    else:
        plain_log(grid[0].yaxis)
        grid[0].set_ylabel(f"{words}\n(lower is better)")
    _legend(figure, _methods(having))
    return png_of(figure)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _distances(one: Trained, solver: str, name: str) -> list[tuple[float, float]]:
    found = [(float(cell.nfe or 0), mean_of(rows_of(one, cell), name)) for cell in swept(one, solver)]
    return [(budget, value) for budget, value in found if value is not None]


def _along(one: Trained, name: str) -> list[tuple[float, float]]:
    return sorted((row["images_seen"], row[name]) for row in one.along if row.get(name) is not None)


def curves(trained: Sequence[Trained], points: Points, words: str, log: bool) -> bytes | None:
    """A quantity against images seen, a line for each training."""
    having = [one for one in trained if points(one)]
    if not having:
        return None
    figure, (axes,) = _figure(1, (7.6, 4.8))
    for one in having:
        _by_images(axes, points(one), markersize=5, **look(one.method))
    if log:
        axes.set_yscale("log")
        plain_log(axes.yaxis)
    else:
        axes.set_ylim(bottom=0)
    axes.set_ylabel(f"{words} (lower is better)")
    _legend(figure, _methods(having))
    return png_of(figure)


def _by_images(axes: "Axes", points: Sequence[tuple[float, float]], **style: Any) -> None:
    seen, values = _columns(points)
    axes.plot([count / 1000 for count in seen], values, linewidth=1.3, **style)
    axes.set_xlabel("thousand images seen")


def stability(trained: Sequence[Trained]) -> bytes | None:
    """The gradient norm along the training by its mean, a band for each method, and the loss's spread by tenth of t."""
    having = [one for one in trained if _norms(one)]
    if not having:
        return None
    methods = _methods(having)
    figure, (left, right) = _figure(2, (11.4, 4.8))
    lines = _bands(having, methods)
    for one in having:
        band = [(seen, lines[one.method] - norm) for seen, norm in _norms(one)]
        _by_images(left, band, alpha=0.6, **look(one.method) | {"marker": "", "linestyle": "-"})
        spreads = [(0.05 + tenth / 10, s) for tenth, s in enumerate(by_tenth(one)) if s is not None]
        right.plot(*_columns(spreads), linewidth=1.2, markersize=4.5, **look(one.method))
    left.set_yticks([*lines.values()], [method.title for method in methods])
    left.invert_yaxis()
    left.grid(axis="y", visible=False)
    left.annotate(
        "",
        (1.02, 0),
        (1.02, 1),
        xycoords=left.get_yaxis_transform(),
        arrowprops={"arrowstyle": "|-|,widthA=0.3,widthB=0.3"},
    )
    left.text(1.03, 0.5, "x 10", transform=left.get_yaxis_transform(), va="center", fontsize=9)
    left.set_title("gradient norm by its mean, on a logarithmic scale", fontsize=10)
    right.set(xlabel="t (noise 0, data 1), in tenths", ylim=(0, None))
    right.set_title("spread of the loss from report to report, by its mean", fontsize=10)
    _legend(figure, methods)
    return png_of(figure)


def _norms(one: Trained) -> list[tuple[float, float]]:
    """The logarithm of the gradient norm of each report by the mean of the last three quarters, to base 10."""
    late = [record["grad_norm"] for record in settled(one) if record.get("grad_norm")]
    known = [record for record in one.records if record.get("grad_norm")]
    return [(record["images_seen"], math.log10(record["grad_norm"] / fmean(late))) for record in known] if late else []


def _bands(trained: Sequence[Trained], methods: Sequence[Method]) -> dict[Method, float]:
    """Where the line of each method's mean lies, downwards, so that no band reaches into another."""
    found, below = dict[Method, float](), -GAP
    for method in methods:
        norms = [norm for one in trained if one.method == method for _, norm in _norms(one)]
        found[method] = below + GAP + max(0.0, *norms)
        below = found[method] - min(0.0, *norms)
    return found


def ways(trained: Sequence[Trained], names: Sequence[str]) -> bytes | None:
    """How samples travel: a panel for each of these measures, a dot with its interval for each training."""
    having = [one for one in trained if all(way(name)(one) is not None for name in names)]
    if not having:
        return None
    methods = _methods(having)
    size = (5.2 * len(names) + 2, 0.45 * len(methods) + 1.3)
    figure, grid = _figure(len(names), size, sharey=True)
    for axes, name in zip(grid, names, strict=True):
        for at, one in _apart(having, methods):
            style = look(one.method) | {"linestyle": "none", "markersize": 5, "capsize": 2}
            axes.errorbar([way(name)(one) or 0.0], [at], xerr=[way_half(one, name)], **style)
        axes.set_xlabel(WAYS[name])
        axes.locator_params(axis="x", nbins=5)  # small figures have long labels
        _down(axes, methods)
    return png_of(figure)


def _apart(trained: Sequence[Trained], methods: Sequence[Method]) -> list[tuple[float, Trained]]:
    """Each training with its height: its method's line, seeds side by side."""
    seeds = sorted({one.seed for one in trained})
    shift = {seed: 0.5 * ((i + 0.5) / len(seeds) - 0.5) for i, seed in enumerate(seeds)}
    return [(methods.index(one.method) + shift[one.seed], one) for one in trained]


def generalisation(trained: Sequence[Trained]) -> bytes | None:
    """Bits/dim of training and of held-out images, joined by a line for each training."""
    rows = [(one, rows_of(one, scored(one))) for one in trained]
    known = {id(one): found[0] for one, found in rows if found and found[0].get("generalisation_gap") is not None}
    having = [one for one in trained if id(one) in known]
    if not having:
        return None
    methods = _methods(having)
    figure, (axes,) = _figure(1, (7.2, 0.5 * len(methods) + 1.3))
    for at, one in _apart(having, methods):
        ends = [known[id(one)][name] for name in ("bits_per_dim_train", "bits_per_dim")]
        colour = look(one.method)["color"]
        axes.plot(ends, [at, at], color=colour, linewidth=1.5)
        axes.scatter(ends, [at, at], color=["white", colour], edgecolor=colour, s=40, zorder=3)
    _down(axes, methods)
    axes.set_xlabel("bits/dim: hollow of training images, full of held-out ones")
    return png_of(figure)


def trajectory_figure(strips: Mapping[str, Tensor], times: Sequence[float]) -> bytes:
    """Samples on their way: strips uint8 (times, n, c, h, w) by method, from the same noises; one row a method."""
    states = [torch.as_tensor(strip).transpose(0, 1).unflatten(0, (-1, 1)) for strip in strips.values()]
    return sheet(torch.stack(states, 1), [*strips], [f"t = {t:.2g}" for t in times])

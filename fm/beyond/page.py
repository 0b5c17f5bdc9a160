"""OUT/report.html of what is beyond the paper: the table, the same as curves, and pictures at the fewest evaluations.

Beside it in OUT/report the figures as PNG, all rows as CSV and the table as JSON, in a file named as the paper's.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import torch
from torch import Tensor

from fm.beyond.plan import BUDGETS, METHODS, SHOWN_BUDGETS, Line
from fm.beyond.table import NOTE, figures, table
from fm.errors import several
from fm.paper.claim import ONE_SEED
from fm.paper.figures import Shown
from fm.paper.page import codes, repeating
from fm.paper.plan import Plan
from fm.paper.reading import distance_name
from fm.paper.table import rows_csv
from fm.paper.trained import Trained
from fm.report import page
from fm.report.comparison_figures import sheet
from fm.report.figures import COLOURS, MARKERS, nfe_ticks, plain, png_of

LIMIT = (
    "This is a miniature: a small network, few images seen, few samples. Couplings and few-step objectives can win at"
    " few evaluations and lose at many, and what wins here need not win at another size."
)


def write_page(
    out: Path,
    plan: Plan,
    trained: Sequence[Trained],
    pictures: Mapping[Line, Tensor],
    links: Mapping[str, str],
    commands: Sequence[str],
    marked: str,
) -> list[Path]:
    """Writes OUT/report.html (self-contained) and OUT/report -> all files written, the page first.

    pictures: of each line uint8 (budgets, n, c, h, w) from the same noises. links: name -> address. commands: what
    repeats it. marked: in what the data are not the published ones.
    """
    shown: Shown = {}
    measured = figures(trained)
    if measured:
        shown["curves"] = curves(trained), "Distance by evaluations a sample; jumps dashed."
    if pictures:
        missing = [line.title for line in measured if line not in pictures]
        words = "The same noises in each row and block; the first ones, not the best ones."
        words += f" Not drawn: {', '.join(missing)}." * bool(missing)
        shown["pictures"] = drawn(pictures), words
    lines = table(trained)
    told = {"data_set": plan.dataset.key, "scale": plan.scale, "seeds": plan.seeds, "about": _what(plan, trained)}
    told |= {"methods": plan.some(METHODS), "changes": list(plan.changes), "table": lines, "note": NOTE, "claims": []}
    document = _page(plan, trained, lines, shown, links, commands, marked)
    return page.written(out, document, shown, {"table.csv": rows_csv(trained), "claims.json": told})


def curves(trained: Sequence[Trained]) -> bytes:
    """Distance by evaluations, a curve for each line: what the solving changes beside what the training does."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    base, *others = figures(trained).items()
    solved = [of for of in others if of[0].key == base[0].key]
    panels = {f"{base[0].title} solved in other ways": solved, "Trained in other ways": others[len(solved) :]}
    panels = {title: lines for title, lines in panels.items() if lines} or {base[0].title: []}
    drawing = Figure((6.5 * len(panels), 4.5), layout="constrained")
    for place, (title, lines) in enumerate(panels.items(), 1):
        axes = drawing.add_subplot(1, len(panels), place, sharey=drawing.axes[0] if place > 1 else None)
        for i, (line, found) in enumerate([base, *lines]):
            points = [(n, found[str(n)].value) for n in BUDGETS if found[str(n)].value is not None]
            style = "--" if line.solver == "jump" else "-"
            colour = COLOURS[(i - 1) % len(COLOURS)] if i else "black"
            marker = MARKERS[(i + (i - 1) // len(COLOURS)) % len(MARKERS)]
            axes.plot(*zip(*points, strict=True), style, marker=marker, color=colour, label=line.title)
        axes.set_title(title)
        nfe_ticks(axes, BUDGETS)
        axes.set_yscale("log")
        for each in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            each(LogFormatter(minor_thresholds=(1, 0.5)))  # 600, not 6 x 10^2
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        plain(axes)
    drawing.axes[0].set_ylabel(f"{distance_name(trained)} (lower is better)")
    return png_of(drawing)


def drawn(pictures: Mapping[Line, Tensor]) -> bytes:
    """A row for each line, a block for each budget, the same noises in each."""
    tiles = torch.stack([*pictures.values()])  # lines, budgets, n, ...
    columns = [f"NFE {nfe}" if i == 0 else "" for nfe in SHOWN_BUDGETS for i in range(tiles.shape[2])]
    return sheet(tiles.flatten(1, 2)[None, :, None], [line.title for line in pictures], columns)


def _what(plan: Plan, trained: Sequence[Trained]) -> str:
    seen = sorted({row["images_seen"] for one in trained for row in one.rows if row.get("images_seen")})
    images = f"{seen[-1]:,}" if seen else "no"
    row = next((row for one in trained for row in one.rows if "failed" not in row), None)
    measured = f"{row['samples']:,} samples, distances through {row['features']}" if row else "nothing yet"
    return (
        f"{plan.dataset.title}, {plan.recipe.data.size} px: each method trained on {images} images seen with"
        f" {several(plan.seeds, 'seed')}, the same network (that of jumps is told where they end), images, order, noise"
        f" and budget, but for reflow, which goes on from FM w/ OT on what that draws. Measured with {measured}."
    )


def _page(
    plan: Plan,
    trained: Sequence[Trained],
    lines: Sequence[Sequence[str]],
    shown: Shown,
    links: Mapping[str, str],
    commands: Sequence[str],
    marked: str,
) -> str:
    title = f"Beyond the paper: {plan.dataset.title}, {plan.scale} scale"
    cautions = [LIMIT] * (plan.scale == "mini") + [f"These are NOT the published data: {marked}."] * bool(marked)
    cautions += [f"There is one training seed, and {ONE_SEED}."] * (plan.seeds == 1)
    cautions += [f"{one.method.title}, seed {one.seed}: {one.failed}." for one in trained if one.failed]
    body = [
        f"<h1>{escape(title)}</h1>",
        *(f"<p class=soft>{escape(said)}</p>" for said in [_what(plan, trained), *cautions]),
        "<h2>The table</h2>",
        page.html_table(lines),
        f"<p class=soft>{escape(NOTE)}</p>",
        *(page.figure((png, name), words) for name, (png, words) in shown.items()),
        *repeating(commands, links),
        "<h2>How it was made</h2>",
        page.details("Code that measured and trained", codes(trained)),
        page.details("Settings that all methods share", plan.recipe.model_dump(mode="json")),
    ]
    return page.document(title, body)

"""OUT/report.html of super-resolution: verdicts, panels, the table beside the published one, claims, commands.

Beside it in OUT/report the figures as PNG, all rows as CSV, and table and claims as JSON.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

import torch
from torch import Tensor

from fm.errors import several
from fm.paper.claim import ONE_SEED, Claim
from fm.paper.methods import OT
from fm.paper.page import cards, claim_section, codes, repeating
from fm.paper.plan import Plan
from fm.paper.reading import distance_name, mean_of
from fm.paper.table import rows_csv
from fm.paper.trained import Trained
from fm.report import page
from fm.report.comparison_figures import sheet
from fm.report.figures import COLOURS, MARKERS, plain, png_of
from fm.results import Row, number
from fm.superres.claims import claims
from fm.superres.plan import BICUBIC, PUBLISHED, REGRESSION, SR3
from fm.superres.reading import Answers, final, of_method

TRUTH = "Held-out images"
SHOWN_PICTURES = 8
LIMIT = (
    "This is a miniature: a small network, few images seen, few samples. It tests whether what the paper says shows at"
    " this size; it does not repeat the paper's experiment."
)
NOTE = (
    "Means over training seeds; ± is half of the 95 % interval of a distance, and of PSNR (dB) and SSIM the standard"
    " error over images, both without the spread over seeds. Each sample belongs to one held-out image, to which PSNR"
    " and SSIM are measured (SSIM of a Gaussian window, Wang et al. 2004); `PSNR, brought down` is that of its means"
    " over pixels to the small picture. Distances are from training images, so that the held-out images' own stands"
    " beside them. An Inception Score is there only where Inception's weights are. Published: ImageNet 64 -> 256, FID"
    " and Inception Score of Inception's features, SR3 by its own sampler; figures of another data set, size or network"
    " are not subtracted from them."
)
Shown = dict[str, tuple[bytes, str]]


def write_page(
    out: Path,
    plan: Plan,
    trained: Sequence[Trained],
    bicubic: Row,
    answers: Answers | None,
    links: Mapping[str, str],
    commands: Sequence[str],
    marked: str,
) -> list[Path]:
    """Writes OUT/report.html (self-contained) and OUT/report -> all files written, the page first.

    bicubic: the row of what needs no network. links: name -> address. commands: what repeats it. marked: in what the
    data are not the published ones.
    """
    found, lines = claims(trained, answers), table(trained, bicubic)
    shown = drawn(trained, bicubic, answers)
    told = {
        "data_set": plan.dataset.key,
        "seeds": plan.seeds,
        "about": _what(plan, trained),
        "table": lines,
        "note": NOTE,
    }
    told |= {"claims": [asdict(claim) for claim in found], "bicubic": bicubic}
    document = _page(plan, trained, found, lines, shown, links, commands, marked)
    return page.written(out, document, shown, {"table.csv": rows_csv(trained), "claims.json": told})


def table(trained: Sequence[Trained], bicubic: Row) -> list[list[str]]:
    """The table as text, headings first: a line for the images themselves, bicubic enlarging, and each method."""
    name = distance_name(trained)
    head = ["method", "seeds", "solver", "NFE", name or "distance", "Inception Score", "PSNR", "SSIM"]
    head += ["PSNR, brought down", *(f"published {name}" for name in ("FID", "IS", "PSNR", "SSIM"))]
    floors = [row[f"{name}_floor"] for one in trained for row in one.rows if row.get(f"{name}_floor") is not None]
    truth = [TRUTH, "", "", "", number(max(floors)) if floors else "", "", "", "", "", *_published(TRUTH)]
    lines = [_line(BICUBIC, [bicubic], name)]
    lines += [_line(method, [*of_method(trained, method).values()], name) for method in (REGRESSION, SR3, OT)]
    return [head, truth, *lines]


def _line(method: str, rows: Sequence[Row], name: str) -> list[str]:
    if not rows:
        return [method, "none", *[""] * 7, *_published(method)]
    row = rows[0]
    solver = "" if method == BICUBIC else row["solver"] + (f" at {row['tolerance']:g}" if row["tolerance"] else "")
    nfe = "" if method == BICUBIC else number(mean_of(rows, "nfe_mean") or 0)
    own = [_interval(rows, name), _plain(mean_of(rows, "inception_score"), 1)]
    fidelity = [_spread(rows, key, digits) for key, digits in (("psnr", 2), ("ssim", 3), ("low_psnr", 1))]
    return [method, "" if method == BICUBIC else str(len(rows)), solver, nfe, *own, *fidelity, *_published(method)]


def _interval(rows: Sequence[Row], name: str) -> str:
    found = mean_of(rows, name) if name else None
    if found is None:
        return ""
    half = sum(row[f"{name}_high"] - row[f"{name}_low"] for row in rows) / 2 / len(rows)
    return f"{number(found)} ± {number(half)}"


def _spread(rows: Sequence[Row], name: str, digits: int) -> str:
    found, spread = mean_of(rows, name), mean_of(rows, f"{name}_stderr")
    return "" if found is None else f"{found:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")


def _plain(found: float | None, digits: int) -> str:
    return "" if found is None else f"{found:.{digits}f}"


def _published(method: str) -> list[str]:
    found = PUBLISHED.get(method)
    return [("" if one is None else f"{one:g}") for one in found] if found else [""] * 4


def drawn(trained: Sequence[Trained], bicubic: Row, answers: Answers | None) -> Shown:
    """The figures that there is something to draw of."""
    found: Shown = {}
    if answers is not None:
        words = "Held-out images in a fixed random order, the first ones, not the best ones; samples of seed 0."
        found["panels"] = panels(answers), words
    if answers is not None and answers.varied is not None:
        caption = (
            f"What {OT} draws of the same small pictures from several noises, and where that differs (s.d., bright)."
        )
        found["varied"] = varied(answers.low, answers.truth, answers.varied), caption
    if name := distance_name(trained):
        words = "The nearer to the truth, the further from likely pictures: Blau and Michaeli 2018. A dot is a seed."
        found["plane"] = plane(trained, bicubic, name), words
        found["sweep"] = (
            sweep(trained, name),
            "Distance by evaluations; a line for each sampler, solver and training seed.",
        )
    return found


def panels(answers: Answers) -> bytes:
    """Small picture, bicubic, each method, truth: a row for each picture."""
    side = answers.truth.shape[-1]
    columns = {"small": _nearest(answers.low, side), **answers.by_method, "truth": answers.truth}
    tiles = torch.stack([part[:SHOWN_PICTURES] for part in columns.values()], 1)
    return sheet(tiles[None, :, None], (), [*columns], tile=112)


def varied(low: Tensor, truth: Tensor, found: Tensor) -> bytes:
    """Small picture, an answer for each noise, s.d. of the answers, truth."""
    side, n = truth.shape[-1], min(SHOWN_PICTURES, len(truth))
    spread = found.double().std(0).mean(1, keepdim=True).expand_as(truth)
    bright = (4 * spread).clamp(0, 255).to(torch.uint8)
    parts = [_nearest(low, side), *found, bright, truth]
    words = ["small", *(f"seed {i}" for i in range(len(found))), "s.d. x 4", "truth"]
    return sheet(torch.stack([part[:n] for part in parts], 1)[None, :, None], (), words, tile=112)


def _nearest(low: Tensor, side: int) -> Tensor:
    times = -(-side // low.shape[-1])
    return low.repeat_interleave(times, 2).repeat_interleave(times, 3)[..., :side, :side]


def plane(trained: Sequence[Trained], bicubic: Row, name: str) -> bytes:
    """PSNR against distance: a method is a point for each seed."""
    from matplotlib.figure import Figure

    figure = Figure((6, 4), layout="constrained")
    axes = figure.subplots()
    groups = {BICUBIC: [bicubic], **{one: [*of_method(trained, one).values()] for one in (REGRESSION, SR3, OT)}}
    for i, (method, rows) in enumerate(groups.items()):
        known = [row for row in rows if row.get("psnr") is not None and row.get(name) is not None]
        if not known:
            continue
        at, to = [row["psnr"] for row in known], [row[name] for row in known]
        half = [(row[f"{name}_high"] - row[f"{name}_low"]) / 2 for row in known]
        axes.errorbar(at, to, half, fmt=MARKERS[i % len(MARKERS)], color=COLOURS[i % len(COLOURS)], label=method)
    axes.set_xlabel("PSNR to the held-out image, dB (better to the right)")
    axes.set_ylabel(f"{name} (better below)")
    axes.legend(frameon=False)
    plain(axes)
    return png_of(figure)


def sweep(trained: Sequence[Trained], name: str) -> bytes:
    """Distance by NFE of both samplers."""
    from matplotlib.figure import Figure

    figure = Figure((6, 4), layout="constrained")
    axes = figure.subplots()
    for i, method in enumerate((SR3, OT)):
        for one in (one for one in trained if one.method.name == method):
            rows = [row for row in one.rows if row.get(name) is not None and not row.get("guidance")]
            for j, solver in enumerate(sorted({row["solver"] for row in rows})):
                own = sorted((row for row in rows if row["solver"] == solver), key=lambda row: row["nfe_mean"])
                told = f"{method}, {solver}" if one.seed == 0 else None
                at, to = [row["nfe_mean"] for row in own], [row[name] for row in own]
                axes.plot(at, to, MARKERS[j % len(MARKERS)], ls="-", color=COLOURS[i], label=told)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("NFE a sample")
    axes.set_ylabel(name)
    axes.legend(frameon=False)
    plain(axes)
    return png_of(figure)


def _what(plan: Plan, trained: Sequence[Trained]) -> str:
    data, row = plan.recipe.data, next((found for one in trained if (found := final(one))), None)
    seen = sorted({row["images_seen"] for one in trained for row in one.rows if row.get("images_seen")})
    images = f"{seen[-1]:,}" if seen else "no"
    measured = f"{row['samples']:,} held-out images, distances through {row['features']}" if row else "nothing yet"
    return (
        f"{plan.dataset.title}, {data.low_size} -> {data.size} px: each method trained on {images} images seen with"
        f" {several(plan.seeds, 'seed')}, the same network, pairs, order, noise and budget. Measured on {measured}."
    )


def _page(
    plan: Plan,
    trained: Sequence[Trained],
    found: Sequence[Claim],
    lines: Sequence[Sequence[str]],
    shown: Shown,
    links: Mapping[str, str],
    commands: Sequence[str],
    marked: str,
) -> str:
    title = f"Super-resolution: {plan.dataset.title}, {plan.recipe.data.low_size} -> {plan.recipe.data.size} px"
    cautions = [LIMIT] * (plan.scale == "mini") + [f"These are NOT the published data: {marked}."] * bool(marked)
    cautions += [f"There is one training seed, and {ONE_SEED}: another one may decide a claim otherwise."] * (
        plan.seeds == 1
    )
    cautions += [f"{one.method.title}, seed {one.seed}: {one.failed}." for one in trained if one.failed]
    body = [
        f"<h1>{escape(title)}</h1>",
        *(f"<p class=soft>{escape(words)}</p>" for words in [_what(plan, trained), *cautions]),
        f"<div class=cards>{''.join(cards(found))}</div>",
        "<h2>Pictures</h2>",
        *(page.figure((shown[key][0], key), shown[key][1]) for key in ("panels", "varied") if key in shown),
        "<h2>The table</h2>",
        page.html_table([line[:-4] for line in lines]),
        page.html_table([[line[0], *line[-4:]] for line in lines]),
        f"<p class=soft>{escape(NOTE)}</p>",
        *(page.figure((shown[key][0], key), shown[key][1]) for key in ("plane", "sweep") if key in shown),
        "<h2>The claims</h2>",
        *(part for claim in found for part in claim_section(claim, {})),
        *repeating(commands, links),
        "<h2>How it was made</h2>",
        page.details("Code that measured and trained", codes(trained)),
        page.details("Settings that all methods share", plan.recipe.model_dump(mode="json")),
    ]
    return page.document(title, body)

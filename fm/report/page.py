"""RUN/report.html and RUN/report/*.png, for a reader new to it: what was trained, how good it is, what next."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fm.files import atomic, write_json, write_text
from fm.lineage import leaves
from fm.report import figures
from fm.report.comparison_figures import sheet
from fm.results import (
    SIMILARITIES,
    UNIFORM_BITS,
    Row,
    bits_text,
    csv_table,
    distance_text,
    distances,
    in_order,
    label,
    number,
    pooled,
    table,
    table_note,
    worse,
)

Figures = Mapping[str, tuple[bytes, str]]  # PNG and caption by name
Beside = Mapping[str, str | dict[str, Any]]  # texts and JSON by file name
STYLE = """
:root{--ink:#1d2025;--soft:#5f6368;--line:#d9dce1;--back:#fff;--card:#f5f6f8;--link:#0b57d0}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8eb;--soft:#a5abb3;--line:#3a3f46;--back:#16181b;--card:#202328;--link:#8ab4f8}}
*{box-sizing:border-box}
body{margin:0 auto;padding:24px 20px 60px;max-width:1080px;background:var(--back);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:28px;margin:0 0 4px}h2{font-size:20px;margin:36px 0 8px}p{margin:6px 0;max-width:75ch}
a{color:var(--link)}.soft,figcaption,small{color:var(--soft)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(210px,1fr));gap:12px;margin:18px 0}
.card{background:var(--card);border-radius:10px;padding:12px 16px}.card b{display:block;font-size:26px;line-height:1.25}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:20px}
figure{margin:0}main>figure{margin:18px 0}
figure img{width:100%;height:auto;background:#fff;border-radius:6px;image-rendering:auto;display:block}
figcaption{font-size:14px;padding:6px 0}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:15px}
th,td{padding:5px 12px 5px 0;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th:nth-child(-n+3),td:nth-child(-n+3){text-align:left}
code,pre{font:14px/1.5 ui-monospace,monospace}
pre{background:var(--card);border-radius:8px;padding:12px 16px;overflow-x:auto}
dt{font-weight:600;margin-top:8px}dd{margin:0;max-width:75ch}summary{cursor:pointer;padding:4px 0}
.plain td{text-align:left;white-space:normal;overflow-wrap:anywhere}
"""

WORDS = {
    "distance": "How far a set of drawn images is from a set of real ones they were not trained on, seen through a"
    " network that knows pictures. Its name says which: fd = Frechet distance, then the network and its block. It is"
    " FID only with inception's features, and comparable with published FID only at their count of pictures. Lower is"
    " better, except for precision and recall; the interval is 95 %.",
    "floor": "What real training images score against the same held-out images, as many as were drawn. No honest"
    " generator is expected to go below it.",
    "bits/dim": "How many bits the model needs for each colour value of a held-out image (negative log-likelihood)."
    " Uniform noise costs 8. The value counts only if a solution with twice the steps (dopri5: a tenth of the"
    " tolerance) moves it by less than 0.001, and its images by less than 0.01 on average; otherwise it"
    " says more about the solver than about the model, and stands as not converged.",
    "NFE": "Network evaluations for one image: the price of drawing. Solvers differ in what they make of them.",
    "untrained": "The same network before its first training step.",
}


PICTURED = ("samples", "data", "trajectory", "classes", "budgets")  # what the page shows before its numbers


@dataclass(frozen=True)
class Pictures:
    """uint8 images for the page: samples and real (n, c, h, w), trajectory (times, m, c, h, w); `drawn_by` in words;
    by class, if the network has any, and by budget (m, c, h, w) of the same noises."""

    samples: Tensor
    real: Tensor
    trajectory: Tensor
    times: Sequence[float]
    drawn_by: str
    by_class: Mapping[str, Tensor] = field(default_factory=dict)
    by_budget: Mapping[str, Tensor] = field(default_factory=dict)


def write_report(
    run: Path,
    title: str,
    rows: Sequence[Row],
    records: Sequence[Mapping[str, Any]],
    pictures: Pictures,
    links: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    commands: Sequence[tuple[str, str]] = (),
) -> Path:
    """Writes RUN/report.html (self-contained) and its pictures and table into RUN/report; returns the page.

    `records` are training's rows, `links` name -> address, `settings` name -> value, `commands` (command, meaning).
    """
    measured = [row for row in pooled(rows) if "failed" not in row]
    shown = _figures(measured, records, pictures)
    for name, (png, _) in shown.items():
        with atomic(run / "report" / f"{name}.png") as file:
            file.write(png)
    write_text(run / "report" / "table.csv", csv_table(rows))
    page = run / "report.html"
    write_text(page, _page(title, rows, records, shown, pictures, links or {}, settings or {}, commands))
    return page


def _figures(
    rows: Sequence[Row], records: Sequence[Mapping[str, Any]], pictures: Pictures
) -> dict[str, tuple[bytes, str]]:
    """Name -> PNG and the words that stand for it where it cannot be seen."""
    count, steps = len(pictures.samples), len(pictures.trajectory)
    shown = {
        "samples": (figures.image_grid(pictures.samples), f"{count} images drawn by the model, not selected"),
        "data": (figures.image_grid(pictures.real), f"{len(pictures.real)} real held-out images for comparison"),
        "trajectory": (
            figures.trajectory_strip(pictures.trajectory, pictures.times),
            f"{pictures.trajectory.shape[1]} samples at {steps} times on their way from noise to image",
        ),
        "loss": (figures.loss_curve(records), "Training loss against images seen"),
    }
    if pictures.by_class:
        tiles = torch.stack([*pictures.by_class.values()])[None, :, None]
        words = f"Samples of {len(pictures.by_class)} classes, a row each, from the same noises"
        shown["classes"] = sheet(tiles, [name[:24] for name in pictures.by_class]), words
    if pictures.by_budget:
        tiles = torch.stack([*pictures.by_budget.values()])[None, :, None]
        words = f"The same noises with {', '.join(pictures.by_budget)} evaluations"
        shown["budgets"] = sheet(tiles, [*pictures.by_budget]), words
    for name in distances(rows):
        file = "distance" if name == _headline(rows) else name
        shown[file] = (figures.distance_by_nfe(rows, name), f"{name} against network evaluations, see the table")
    if any(row.get("nll_converged") is not None for row in rows):
        shown["bits_per_dim"] = (figures.bits_by_nfe(rows), "Bits/dim against network evaluations, see the table")
    if any(row.get("solution_error") for row in rows):
        shown["solution_error"] = (figures.error_by_nfe(rows), "The solver's error against network evaluations")
    return shown


def _headline(rows: Sequence[Row]) -> str:
    """The distance that the page opens with: the first by name, similarities last."""
    return next(iter(distances(rows)), "")


def _page(
    title: str,
    rows: Sequence[Row],
    records: Sequence[Mapping[str, Any]],
    shown: Mapping[str, tuple[bytes, str]],
    pictures: Pictures,
    links: Mapping[str, str],
    settings: Mapping[str, Any],
    commands: Sequence[tuple[str, str]],
) -> str:
    measured = [row for row in pooled(rows) if "failed" not in row]
    plots = [name for name in shown if name not in PICTURED]
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p class=soft>{_what(rows)}</p>",
        f"<div class=cards>{''.join(_cards(measured, records))}</div>",
        "<div class=two>",
        figure(shown["samples"], f"Drawn by the model ({pictures.drawn_by}); the first ones, not the best ones."),
        figure(shown["data"], "Real pictures that the model was never trained on."),
        "</div>",
        *_section(shown, "classes", "By class", "A row for each class, a column for each noise."),
        "<h2>From noise to image</h2>",
        figure(shown["trajectory"], "Each row is one sample; the model moves it from pure noise to an image."),
        *_section(
            shown, "budgets", "The same noise, more evaluations", "A row for each budget, a column for each noise."
        ),
        "<h2>The numbers</h2>",
        _table(rows),
        "<div class=two>" + "".join(figure(shown[name], CAPTIONS.get(name, name)) for name in plots) + "</div>",
        "<h2>What the words mean</h2><dl>",
        *(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in WORDS.items()),
        "</dl>",
        *try_next(commands, links),
        "<h2>How it was made</h2>",
        details("Settings", settings),
        details("Where each number comes from", lineage([row for row in rows if "failed" not in row])),
    ]
    return document(title, body)


def _section(shown: Mapping[str, tuple[bytes, str]], name: str, title: str, caption: str) -> list[str]:
    return [f"<h2>{title}</h2>", figure(shown[name], caption)] if name in shown else []


def document(title: str, body: Sequence[str]) -> str:
    """A whole page of HTML in the project's look, from the parts of its body."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


LINEAGE = (
    *("data", "weights", "images_seen", "recipe", "features", "features_weights", "features_preprocessing"),
    *(
        "features_dimensions",
        "levels",
        "reference_images",
        "batch",
        "grid",
        "noise",
        "noise_digest",
        "labels",
        "seed",
        "nll_images",
        "nll_k",
        "nll_probe",
    ),
    *("precision", "code", "torch", "numpy", "python", "threads", "device"),
)
CAPTIONS = {
    "loss": "Training loss against images seen.",
    "distance": "Distance to held-out images by solver and budget; bars are 95 % intervals, of seeds one s.d.",
    "solution_error": "Each solver's own error: how far it ends from the converged solution of the same noise.",
    "bits_per_dim": "Bits/dim by each solver at its budget; a value stands only where a finer solution agrees.",
}


def _what(rows: Sequence[Row]) -> str:
    row = next((r for r in in_order(rows) if r["method"] != figures.UNTRAINED), None)
    if row is None:
        return "A flow-matching image model."
    return (
        f"A flow-matching image model ({escape(row['method'])}) that learned to turn noise into pictures,"
        " judged on pictures it has not seen."
    )


def _cards(rows: Sequence[Row], records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The headline numbers, each with what it has to be compared with."""
    trained = [r for r in rows if r["method"] != figures.UNTRAINED]
    cards, name = [], _headline(rows)
    most = max((r["samples"] for r in trained if r.get(name) is not None), default=0)
    compared = [r for r in trained if r.get(name) is not None and r["samples"] == most]  # a distance depends on it
    if best := min(compared, key=lambda r: worse(r, name), default=None):
        start = figures.untrained(rows, name)
        notes = [f"{label(best)}, {best['nfe']} evaluations"]
        if start and best[name] > 0 and not name.startswith(SIMILARITIES):
            notes.append(f"untrained {number(start)}, {start / best[name]:.1f} times higher")
        notes += [f"floor {number(best[f'{name}_floor'])}"] if best.get(f"{name}_floor") is not None else []
        cards.append(card(distance_text(best, name), f"distance ({name})", "; ".join(notes)))
    if any(r.get("nll_converged") is not None for r in trained):
        cards.append(_bits_card(rows, [r for r in trained if r.get("bits_per_dim") is not None]))
    if records:
        last = records[-1]
        cards.append(
            card(f"{last['images_seen']:,}", "training images seen", f"in {last['seconds']:.0f} s of training")
        )
    return cards


def _bits_card(rows: Sequence[Row], converged: Sequence[Row]) -> str:
    """The value of the finest converged solution, not the lowest one: the solver is no part of the model."""
    if not converged:
        return card("none", "bits/dim of held-out images", "no solver of the grid has converged")
    row, start = max(converged, key=lambda r: r["nfe"]), figures.untrained(rows, "bits_per_dim")
    notes = [label(row), *([f"untrained {start:.2f}"] if start else []), f"uniform noise {UNIFORM_BITS:g}"]
    return card(bits_text(row), "bits/dim of held-out images", "; ".join(notes))


def card(value: str, name: str, note: str) -> str:
    return f"<div class=card><small>{escape(name)}</small><b>{escape(value)}</b><small>{escape(note)}</small></div>"


def figure(picture: tuple[bytes, str], caption: str) -> str:
    png, words = picture
    data = base64.b64encode(png).decode()
    image = f'<img alt="{escape(words)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def html_table(lines: Sequence[Sequence[str]]) -> str:
    """A table of texts, the first line its headings."""
    head, *body = lines
    cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in body)
    headings = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in head)
    return f"<div class=wide><table><thead><tr>{headings}</tr></thead><tbody>{cells}</tbody></table></div>"


def _table(rows: Sequence[Row]) -> str:
    return html_table(table(rows)) + f"<p class=soft>{escape(table_note(rows))}</p>"


def written(out: Path, document: str, shown: Figures, beside: Beside) -> list[Path]:
    """Writes OUT/report.html and into OUT/report the figures as PNG and what stands `beside` them, texts and JSON by
    file name -> all files written, the page first."""
    folder = out / "report"
    for name, (png, _) in shown.items():
        with atomic(folder / f"{name}.png") as file:
            file.write(png)
    for name, told in beside.items():
        if isinstance(told, str):
            write_text(folder / name, told)
        else:
            write_json(folder / name, told)
    write_text(out / "report.html", document)
    return [out / "report.html", *(folder / name for name in (*beside, *(f"{name}.png" for name in shown)))]


def try_next(commands: Sequence[tuple[str, str]], links: Mapping[str, str]) -> list[str]:
    parts = []
    if commands:
        lines = "\n".join(f"{command}    # {words}" for command, words in commands)
        parts.append(f"<h2>Try next</h2><pre>{escape(lines)}</pre>")
    if links:
        items = " · ".join(f'<a href="{escape(address)}">{escape(name)}</a>' for name, address in links.items())
        parts.append(f"<p>See also: {items}</p>")
    return parts


def details(summary: str, values: Mapping[str, Any]) -> str:
    lines = "".join(f"<tr><td>{escape(k)}</td><td>{escape(str(v))}</td></tr>" for k, v in leaves(values).items())
    return f"<details><summary>{escape(summary)}</summary><table class=plain>{lines}</table></details>"


def lineage(rows: Sequence[Row]) -> dict[str, Any]:
    """What the trained rows agree on, of the keys that say where a number comes from."""
    trained = [row for row in rows if row["method"] != figures.UNTRAINED]
    return {k: trained[0][k] for k in LINEAGE if trained and all(r.get(k) == trained[0].get(k, r) for r in trained)}

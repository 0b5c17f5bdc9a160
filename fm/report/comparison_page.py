"""OUT/report.html of a comparison of runs: tables, verdicts, curves, the same noise side by side, nearest images.

Beside it in OUT/report each picture as PNG, the rows and the paired differences as CSV, and the table as LaTeX.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fm.comparing import Comparison
from fm.files import atomic, write_text
from fm.metrics.memorisation import Memorisation
from fm.report import comparison_figures as figures
from fm.report import page
from fm.report.comparison import cells_table, csv_of, heading, paired_csv, paired_table, runs_table, table_note
from fm.report.latex import latex_table
from fm.results import SIMILARITIES, distances, notes_on, number

ERROR = "solution_error"
WORDS = ("distance", "floor", "bits/dim", "NFE")


@dataclass(frozen=True)
class Nearest:
    """Samples (k, c, h, w) nearest to training images, their neighbours (k, 3, c, h, w), and what was compared."""

    found: Memorisation
    samples: Tensor
    neighbours: Tensor
    drawn: int
    training: int
    training_total: int
    heldout: int
    features: str


@dataclass(frozen=True)
class Drawn:
    """What a run draws from the common noise: uint8 samples (n, c, h, w), states (times, m, c, h, w) on their way."""

    samples: Tensor
    states: Tensor
    nearest: Nearest | None = None


@dataclass(frozen=True)
class Pictures:
    """The drawn of each run by its name, the times of their states, how they were drawn; `notes` on what is not."""

    drawn: Mapping[str, Drawn]
    times: Sequence[float]
    drawn_by: str
    notes: Sequence[str] = field(default_factory=list)


Shown = dict[str, tuple[bytes, str, str]]  # file name -> PNG, what stands for it, caption
Records = Mapping[str, Sequence[Mapping[str, Any]]]


def write_tables(out: Path, comparison: Comparison) -> None:
    """Writes OUT/report/table.csv (rows), paired.csv (paired differences) and table.tex."""
    tables = {"table.csv": csv_of, "paired.csv": paired_csv, "table.tex": latex_table}
    for name, made in tables.items():
        write_text(out / "report" / name, made(comparison))


def write_page(out: Path, comparison: Comparison, solving: Records, pictures: Pictures) -> Path:
    """Writes OUT/report.html (self-contained) and its pictures beside it; `solving` are each run's records of NFE."""
    solving = {name: rows for name, rows in solving.items() if rows}
    shown = _curves(comparison, solving) | _pictures(pictures)
    for name, (png, _, _) in shown.items():
        with atomic(out / "report" / f"{name}.png") as file:
            file.write(png)
    write_text(out / "report.html", _page(comparison, pictures, shown))
    return out / "report.html"


def _curves(comparison: Comparison, solving: Records) -> Shown:
    shown: Shown = {}
    for name in distances(row for run in comparison.runs for row in run.rows):
        if figures.shown_in(comparison, name):
            words = f"{name}\n({'higher' if name.startswith(SIMILARITIES) else 'lower'} is better)"
            png = figures.curves(comparison, name, words, floors=True)
            caption = f"{name} at each budget, a line for each run, set apart a little; the floor is of real images."
            shown[f"nfe-{name}"] = png, f"{name} against network evaluations for each run, see the table", caption
    if figures.shown_in(comparison, ERROR):
        png = figures.curves(comparison, ERROR, "error against the converged\nsolution (RMS, values in [-1, 1])")
        caption = "How far the solver is from the converged solution from the same noise: the solver's part alone."
        shown["error"] = png, "Numerical error against network evaluations for each run", caption
    if solving:
        caption = "What an adaptive solver needs at each checkpoint: how the velocity grows harder to integrate."
        shown["nfe-over-training"] = figures.nfe_over_training(solving), "NFE against images seen for each run", caption
    return shown


def _pictures(pictures: Pictures) -> Shown:
    drawn = pictures.drawn
    if not drawn:
        return {}
    count = min(24, *(len(one.samples) for one in drawn.values()))
    wide = min(12, count)
    samples = torch.stack(
        [one.samples[: count // wide * wide].unflatten(0, (-1, 1, wide)) for one in drawn.values()], 1
    )
    across = 2
    states = [one.states.transpose(0, 1).unflatten(0, (-1, across)) for one in drawn.values()]
    at = [f"t = {t:g}" for t in pictures.times]
    how = f"{pictures.drawn_by}; the first ones, not the best ones"
    shown: Shown = {
        "samples": (
            figures.sheet(samples, [*drawn]),
            f"{count} samples of each run from the same noises",
            f"Tiles one above the other start from the same noise ({how}).",
        ),
        "trajectories": (
            figures.sheet(torch.stack(states, 1), [*drawn], at),
            "Samples of each run from the same noises on their way from noise to image",
            f"The same noises on their way, at {', '.join(at)} ({how}).",
        ),
    }
    return shown | {f"nearest-{file_name(n)}": _nearest(n, d.nearest) for n, d in drawn.items() if d.nearest}


def file_name(name: str) -> str:
    return name.replace("/", "-")


def _nearest(name: str, nearest: Nearest) -> tuple[bytes, str, str]:
    tiles = torch.cat([nearest.samples[:, None], nearest.neighbours], 1)
    across = 2 if len(tiles) % 2 == 0 else 1
    distance = nearest.found.distances

    def under(down: int, row: int, block: int, column: int) -> str:
        return number(float(distance[down * across + block, column - 1])) if column else ""

    png = figures.sheet(tiles.unflatten(0, (-1, 1, across)), (), ("sample", "nearest", "second", "third"), under)
    caption = f"{name}: of {nearest.drawn} samples the {len(tiles)} nearest to a training image, with distances."
    return png, f"Samples of {name} beside their nearest training images", caption


def _page(comparison: Comparison, pictures: Pictures, shown: Shown) -> str:
    title = " against ".join(run.name for run in comparison.runs)

    def figure(name: str) -> str:
        png, words, caption = shown[name]
        return page.figure((png, words), caption)

    notes = [*comparison.notes, *pictures.notes]
    rows = [row for run in comparison.runs for row in run.rows if not row.get("failed")]
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p class=soft>{escape(comparison.runs[0].name)} is what each other run is compared with, where both were"
        " measured alike: on the same held-out images, through the same features, with the same solver, budget and"
        " number of samples, from the same noise.</p>",
        f"<div class=cards>{''.join(_cards(comparison))}</div>",
        "<h2>Which is better</h2>",
        page.html_table(paired_table(comparison)),
        *(f"<p class=soft>{escape(note)}.</p>" for note in notes),
        "<h2>All runs</h2>",
        page.html_table(runs_table(comparison)),
        "<h2>All numbers</h2>",
        page.html_table(cells_table(comparison)),
        f"<p class=soft>{escape(' '.join([table_note(), *(f'{note}.' for note in notes_on(rows))]))}</p>",
        "<h2>What evaluations buy</h2>",
        *(figure(name) for name in shown if name.startswith("nfe-") or name == "error"),
    ]
    if pictures.drawn:
        body += ["<h2>From the same noise</h2>", figure("samples"), figure("trajectories")]
    body += _memorisation(pictures, [figure(name) for name in shown if name.startswith("nearest-")])
    body += ["<h2>What the words mean</h2><dl>"]
    body += [f"<dt>{escape(word)}</dt><dd>{escape(page.WORDS[word])}</dd>" for word in WORDS]
    body += ["</dl>", "<h2>How it was made</h2>"]
    lineage = {run.where: page.lineage([r for r in run.rows if "failed" not in r]) for run in comparison.runs}
    return page.document(title, [*body, page.details("Where each number comes from", lineage)])


def _cards(comparison: Comparison) -> list[str]:
    """How often each run was better than the first, by each quantity."""
    kinds = dict.fromkeys((pair.other, pair.quantity) for pair in comparison.paired)
    return [_card(comparison, *kind) for kind in kinds]


def _card(comparison: Comparison, other: str, quantity: str) -> str:
    baseline = comparison.runs[0].name
    pairs = [pair for pair in comparison.paired if (pair.other, pair.quantity) == (other, quantity)]
    known = [pair for pair in pairs if pair.difference is not None]
    wins = {name: sum(pair.better == name for pair in known) for name in (other, baseline)}
    first, second = sorted(wins, key=lambda name: -wins[name])
    value = f"{first} better in {wins[first]} of {len(known)}" if wins[first] else "not distinguishable"
    notes = [f"{second} better in {wins[second]}", f"not distinguishable {len(known) - sum(wins.values())}"]
    notes += [f"not compared {len(pairs) - len(known)}"] * (len(pairs) > len(known))
    if not known:
        value, notes = "not compared", ["see the table"]
    return page.card(value, f"{heading(quantity)}: {baseline} and {other}", "; ".join(notes))


def _memorisation(pictures: Pictures, shown: Sequence[str]) -> list[str]:
    """How near samples come to training images, beside how near held-out images do."""
    found = {name: drawn.nearest for name, drawn in pictures.drawn.items() if drawn.nearest}
    if not found:
        return []
    lines = [["run", "samples", "training images", "median distance", "held-out images'", "ratio", "nearer than 1 %"]]
    for name, near in found.items():
        m, seen = near.found, f"{near.training:,} of {near.training_total:,}"
        ratio = f"{m.median / m.heldout_median:.2f}" if m.heldout_median else ""
        medians = number(m.median), number(m.heldout_median)
        lines.append([name, str(near.drawn), seen, *medians, ratio, f"{100 * m.near:.1f} %"])
    one = next(iter(found.values()))
    words = (
        f"Distances in the features of {one.features} from each sample to its nearest training image, beside those of"
        f" {one.heldout:,} held-out images. The last column is the share of samples nearer than the nearest 1 % of the"
        " held-out images: far more than 1 % says that training images were learned by heart, in single samples too"
        " where a picture below is a copy. Poor samples lie far from everything."
    )
    return ["<h2>Nearest training images</h2>", page.html_table(lines), f"<p class=soft>{escape(words)}</p>", *shown]

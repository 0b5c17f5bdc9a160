"""OUT/report.html of the paper's comparison: verdicts, the table, each claim with its figure, settings, commands.

Beside it in OUT/report the figures as PNG; all rows, the table and what was reported along the trainings as CSV; and
the claims as JSON.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from torch import Tensor

from fm.errors import several
from fm.paper.claim import NOT_MEASURED, NOT_SHOWN, ONE_SEED, SHOWN, Claim
from fm.paper.claims import claims
from fm.paper.figures import Shown, drawn, trajectory_figure
from fm.paper.methods import METHODS, TABLE_1
from fm.paper.plan import Plan
from fm.paper.reading import rows_of, sampled
from fm.paper.settings import SPLITS, settings_table
from fm.paper.table import BESIDE, csv_of, reports_csv, rows_csv, solving_csv, table, table_note
from fm.paper.trained import Trained
from fm.report import page
from fm.results import notes_on

VERDICTS = (SHOWN, NOT_SHOWN, NOT_MEASURED)
TRAJECTORIES = "trajectories"
UNTOLD = "not told"
SMALL = (
    "This is a miniature: a small network, few images seen, few samples, few seeds. It tests whether the paper's claims"
    " already show at this size; it does not repeat the paper's experiments, and a claim that does not show here may"
    " still hold at the paper's scale."
)
IDENTIFIED = (
    "That these are the published data rests on their counts, classes and resizing: their bytes were not compared with"
    " a published digest."
)
UNPUBLISHED = "The paper has no such data set: this is no recipe of its, and no figure of it is published."


def write_page(
    out: Path,
    plan: Plan,
    trained: Sequence[Trained],
    strips: Mapping[str, Tensor],
    links: Mapping[str, str],
    commands: Sequence[str],
    marked: str,
    times: Sequence[float],
) -> list[Path]:
    """Writes OUT/report.html (self-contained) and OUT/report -> all files written, the page first.

    strips: uint8 (times, n, c, h, w) by method, of the same noises at `times`.
    links: name -> address. commands: what repeats it. marked: in what the data are not the published ones.
    """
    found, shown = claims(plan, trained), drawn(plan, trained)
    if strips:
        caption = "The same noises on their way to images, a row for each method; the first ones, not the best ones."
        shown[TRAJECTORIES] = trajectory_figure(strips, times), caption
    told: dict[str, Any] = {"data_set": plan.dataset.key, "scale": plan.scale, "table": table(plan, trained, marked)}
    told |= {"about": _what(plan, trained), "seeds": plan.seeds, "note": table_note(plan, trained, marked)}
    told |= {"methods": plan.some(METHODS), "changes": list(plan.changes), "cautions": _cautions(plan, trained, marked)}
    told |= {
        "claims": [asdict(claim) for claim in found],
        "captions": {key: words for key, (_, words) in shown.items()},
    }
    beside: page.Beside = {
        "table.csv": rows_csv(trained),
        "methods.csv": csv_of(plan, trained, marked),
        "training.csv": reports_csv(trained),
        "solving.csv": solving_csv(trained),
        "claims.json": told,
    }
    return page.written(out, _page(plan, trained, found, shown, links, commands, marked), shown, beside)


def _page(
    plan: Plan,
    trained: Sequence[Trained],
    found: Sequence[Claim],
    shown: Shown,
    links: Mapping[str, str],
    commands: Sequence[str],
    marked: str,
) -> str:
    title = f"Flow matching against diffusion: {plan.dataset.title}, {plan.scale} scale"
    body = [
        f"<h1>{escape(title)}</h1>",
        *(f"<p class=soft>{escape(words)}</p>" for words in [_what(plan, trained), *_cautions(plan, trained, marked)]),
        f"<div class=cards>{''.join(cards(found))}</div>",
        "<h2>The claims at a glance</h2>",
        page.html_table([["claim", "verdict"], *([claim.says, claim.verdict] for claim in found)]),
        "<h2>The table</h2>",
        *_table(plan, trained, marked),
        "<h2>The claims</h2>",
        *(part for claim in found for part in claim_section(claim, shown)),
        "<h2>In what this differs from the paper</h2>",
        "<p class=soft>Each setting that differs, or that the paper leaves open.</p>",
        page.html_table(settings_table(plan)),
        *repeating(commands, links),
        "<h2>How it was made</h2>",
        page.details("Code that measured and trained", codes(trained)),
        page.details("Settings that all methods share", plan.recipe.model_dump(mode="json")),
    ]
    return page.document(title, body)


def _table(plan: Plan, trained: Sequence[Trained], marked: str) -> list[str]:
    """The paper's table, its notes below it: beside the figures they would push them out of sight."""
    head, *texts = table(plan, trained, marked)
    rows = [row for one in trained for row in rows_of(one, sampled(one))]
    notes = "".join(f"<li>{escape(line[0])}: {escape(line[-1])}</li>" for line in texts if line[-1])
    said = " ".join([table_note(plan, trained, marked), *_sentences(notes_on(rows))])
    beside = [i for i, words in enumerate(head) if words.startswith(BESIDE)]
    ours = [i for i in range(len(head) - 1) if i not in beside]
    parts = [ours, *[[0, *beside]] * bool(beside)]
    tables = [page.html_table([[line[i] for i in part] for line in (head, *texts)]) for part in parts]
    return [*tables, f"<p class=soft>{escape(said)}</p>", f"<ul>{notes}</ul>"]


def _what(plan: Plan, trained: Sequence[Trained]) -> str:
    """What was compared, in two sentences."""
    seen = sorted({row["images_seen"] for one in trained for row in one.rows if row.get("images_seen")})
    at = next((cell for one in trained if (cell := sampled(one))), None)
    images = " to ".join(f"{count:,}" for count in dict.fromkeys((seen[0], seen[-1]))) if seen else "no"
    samples = f"{at.samples:,} samples, distances through {at.features}" if at else "nothing sampled"
    return (
        f"{_objectives(trained)} on {plan.dataset.title} at"
        f" {plan.recipe.data.size} px, each trained on {images} images seen with {several(plan.seeds, 'seed')}: the"
        f" same network, images, order, noise and budget. Measured with {samples}, against"
        f" {at.reference_images if at else 0:,} {SPLITS[at.reference_split] if at else ''} images."
    )


def _objectives(trained: Sequence[Trained]) -> str:
    """How many objectives the claims compare, each training once, and which rows are extra."""
    compared = {one.method.key for one in trained if one.method.published}
    extra = dict.fromkeys(one.method.title for one in trained if not one.method.published)
    rows = f" and {', '.join(extra)} as an extra row" if extra else ""
    return f"{several(len(compared), 'training objective')}{rows}"


def _cautions(plan: Plan, trained: Sequence[Trained], marked: str) -> list[str]:
    """What has to be known before any figure is read."""
    found = [SMALL] * (plan.scale == "mini") + [UNPUBLISHED] * (plan.dataset.key not in TABLE_1)
    found += [f"These are NOT the published data: the data set {marked}."] * bool(marked)
    found += [IDENTIFIED] * bool(plan.dataset.counts and not marked)
    single = len({one.seed for one in trained}) == 1
    found += [f"There is one training seed, and {ONE_SEED}: another one may decide a claim otherwise."] * single
    found += [
        f"WARNING: figures are of {len(values)} versions of the code ({', '.join(values)}): {what} them"
        " again before any two are compared."
        for what, values in (("measure", _measured(trained)), ("train", _trained(trained)))
        if len(values) > 1
    ]
    return found + [f"{one.method.title}, seed {one.seed}: {one.failed}." for one in trained if one.failed]


def _measured(trained: Sequence[Trained]) -> list[str]:
    return sorted({row["code"] for one in trained for row in (*one.rows, *one.along) if row.get("code")})


def _trained(trained: Sequence[Trained]) -> list[str]:
    """A training that does not tell counts as of a version of its own."""
    there = [one for one in trained if one.rows or one.along or one.records]
    return sorted({code for one in there for code in one.trained_by or (UNTOLD,)})


def codes(trained: Sequence[Trained]) -> dict[str, str]:
    """By which versions of the code rows were measured and networks trained."""
    told = {"rows": _measured(trained), "trainings": _trained(trained)}
    return {name: ", ".join(values) or UNTOLD for name, values in told.items()}


def cards(found: Sequence[Claim]) -> list[str]:
    """How many claims got each verdict, and which."""
    having = {verdict: [claim.title for claim in found if claim.verdict == verdict] for verdict in VERDICTS}
    return [page.card(str(len(titles)), verdict, "; ".join(titles)) for verdict, titles in having.items()]


def claim_section(claim: Claim, shown: Shown) -> list[str]:
    """A claim with its verdict, test, figure and evidence."""
    pictures = [shown[key] for key in (claim.key, *[TRAJECTORIES] * (claim.key == "appears")) if key in shown]
    evidence = "".join(f"<li>{escape(line)}</li>" for line in claim.evidence)
    return [
        f"<h3>{escape(claim.title)}: {claim.verdict}</h3>",
        f"<p>{escape(claim.says)}</p>",
        f"<p class=soft>Test: {escape(claim.test)}</p>",
        *(page.figure((png, f"{claim.title}: {caption}"), caption) for png, caption in pictures),
        f"<ul>{evidence}</ul>",
        *[f"<p class=soft>What would be needed: {escape(claim.needs)}.</p>"] * bool(claim.needs),
    ]


def _sentences(notes: Sequence[str]) -> list[str]:
    return [f"{note[0].upper()}{note[1:]}." for note in notes]


def repeating(commands: Sequence[str], links: Mapping[str, str]) -> list[str]:
    """What repeats the comparison, and where its parts lie."""
    lines = "\n".join(commands)
    parts = [f"<h2>To repeat it</h2><pre>{escape(lines)}</pre>"] * bool(commands)
    return [*parts, *page.try_next((), links)]

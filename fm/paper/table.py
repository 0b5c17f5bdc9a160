"""The paper's Table 1: what each method got here beside what was published of it, and the difference if there is one.

A figure of another kind (another distance, another K or probe, other data, another scale) is never subtracted.
"""

import csv
import io
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Any

from fm.comparing import Cell
from fm.paper.methods import DATASETS, METHODS, NLL_K1, TABLE_1, Figures, K, Method
from fm.paper.plan import Plan
from fm.paper.reading import (
    Form,
    Value,
    adrift,
    better,
    bits,
    distance,
    distance_name,
    forms,
    is_fid,
    mean_of,
    nfe,
    rows_of,
    sampled,
    scored,
    values,
)
from fm.paper.settings import SPLITS
from fm.paper.trained import Trained
from fm.report.comparison import heading
from fm.results import Row, csv_table, number

NOTHING = Figures(None, None, None)
NOT_COMPARABLE = "not comparable: "
FID_SAMPLES = 50_000
BESIDE = ("published ", "difference in ")  # how the columns that are not of our own figures begin
REPORTED = ("images_seen", "loss", "grad_norm", *(f"loss_t{tenth}" for tenth in range(10)))
Line = dict[str, Any]


def quantities(trained: Sequence[Trained]) -> dict[str, Value]:
    """The columns of our own figures by heading; those that nothing was measured of are left out."""
    name = distance_name(trained)
    found: dict[str, Value] = {"bits/dim, K = 1": _bits("bits_per_dim_k1")}
    counts = {row["nll_k"] for one in trained for row in one.rows if (row.get("nll_k") or 1) > 1}
    found |= {f"bits/dim, K = {k}": _bits("bits_per_dim", k) for k in sorted(counts)}
    found |= {f"bits/dim, K = {k}, probe per draw": _bits("bits_per_dim_per_draw", k) for k in sorted(counts)}
    found |= {name: distance(name), "floor": distance(f"{name}_floor"), "NFE": nfe} if name else {"NFE": nfe}
    return {words: value for words, value in found.items() if any(value(one) is not None for one in trained)}


def _bits(name: str, k: int | None = None) -> Value:
    def value(one: Trained) -> float | None:
        rows = [row for row in rows_of(one, scored(one)) if k in (None, row.get("nll_k"))]
        return mean_of(rows, name)

    return value


def lines(plan: Plan, trained: Sequence[Trained], marked: str = "") -> list[Line]:
    """Each method's figures in full: by quantity mean, s.d., least, most and seeds; published ones and differences."""
    shown = quantities(trained)
    return [_line(plan, trained, method, shown, marked) for method in plan.methods]


def _line(plan: Plan, trained: Sequence[Trained], method: Method, shown: dict[str, Value], marked: str) -> Line:
    form = next(one for one in forms(trained, method.name) if one.method == method)
    line: Line = {"method": method.title, "seeds": len(form.trained)}
    for words, value in shown.items():
        known = [*values(form, value).values()]
        spread = stdev(known) if len(known) > 1 else None
        ends = (min(known), max(known)) if known else (None, None)
        line |= {words: fmean(known) if known else None, f"{words}, s.d.": spread, f"{words}, seeds": len(known)}
        line |= {f"{words}, least": ends[0], f"{words}, most": ends[1]}
    figures = TABLE_1.get(plan.dataset.key, {}).get(method.name, NOTHING)
    line |= {f"{BESIDE[0]}{name}": value for name, value in _published(plan, method.name, figures).items()}
    line |= {f"{BESIDE[1]}{name}": value for name, value in _differences(plan, form, figures, marked).items()}
    return line | {"note": "; ".join(_notes(trained, form, shown))}


def _published(plan: Plan, name: str, figures: Figures) -> dict[str, float | None]:
    key = plan.dataset.key
    if key not in TABLE_1:
        return {}
    found: dict[str, float | None] = {"NLL, K = 1": NLL_K1.get(key, {}).get(name)} if key in NLL_K1 else {}
    return found | {_largest(key): figures.nll, "FID": figures.fid, "NFE": figures.nfe}


def _largest(key: str) -> str:
    """What published bits/dim of the most draws are called; the draws where they are stated."""
    return f"NLL, K = {K[key]}" if key in K else "NLL"


def _differences(plan: Plan, form: Form, figures: Figures, marked: str) -> dict[str, float | str | None]:
    """Ours minus published at full scale; `not comparable` and why where ours is of another kind."""
    key = plan.dataset.key
    if plan.scale != "full" or key not in TABLE_1 or not form.trained:
        return {}
    ones = [*form.trained.values()]
    name, bits_unlike = distance_name(ones), _bits_unlike(key, ones)
    coarse = "" if all(row["tolerance"] == 1e-5 for row in _rows(ones, sampled)) else "of another tolerance"
    draws = "" if key in K else "its draws are not stated"
    kinds: dict[str, tuple[Value, float | None, str]] = {
        "NLL, K = 1": (_bits("bits_per_dim_k1"), NLL_K1.get(key, {}).get(form.method.name), bits_unlike),
        _largest(key): (_bits("bits_per_dim_per_draw", K.get(key)), figures.nll, draws or bits_unlike),
        "FID": (distance(name), figures.fid, _fid_unlike(name, ones)),
        "NFE": (nfe, figures.nfe, coarse),
    }
    keys = ", ".join(change.partition("=")[0] for change in plan.changes)
    other = "of other data" if marked else f"of another recipe ({keys})" if keys else ""
    return {
        words: _difference(form, value, published, other or unlike)
        for words, (value, published, unlike) in kinds.items()
        if published is not None or words != "NLL, K = 1"
    }


def _rows(ones: Sequence[Trained], cell: Callable[[Trained], Cell | None]) -> list[Row]:
    return [row for one in ones for row in rows_of(one, cell(one))]


def _bits_unlike(key: str, ones: Sequence[Trained]) -> str:
    """Why bits/dim are of other images than published ones, or nothing."""
    due = DATASETS[key].counts["test"]
    counts = {row.get("nll_images") for row in _rows(ones, scored)}
    return next((f"of {count or 0:,} images, not {due:,}" for count in counts if count != due), "")


def _fid_unlike(name: str, ones: Sequence[Trained]) -> str:
    """Why a distance is no FID as it was published, or nothing."""
    if not is_fid(name):
        return "not of Inception's features"
    for row in _rows(ones, sampled):
        if row.get("samples") != FID_SAMPLES:
            return f"of {row.get('samples') or 0:,} samples, not {FID_SAMPLES:,}"
        if row.get("reference_split") != "training":
            return "against held-out images, not those of the training"
    return ""


def _difference(form: Form, value: Value, published: float | None, unlike: str) -> float | str | None:
    """The mean over seeds minus what was published; None without a published figure."""
    known = values(form, value).values()
    if published is None:
        return None
    unlike = unlike or "not measured alike" * (not known)
    return NOT_COMPARABLE + unlike if unlike else fmean(known) - published


def _notes(trained: Sequence[Trained], form: Form, shown: dict[str, Value]) -> list[str]:
    """What a reader has to know of a line."""
    method = form.method
    notes = (
        [f"repeats the training of {METHODS[method.same_as].title}, whose figures these are"] if method.same_as else []
    )
    notes += ["extra row: the paper has no figure of it"] * (not method.published)
    judged = {words: value for words, value in shown.items() if words != "floor"}
    if len(forms(trained, method.name)) > 1 and form.trained:
        drawn = distance_name(trained)  # a form that draws no images is no better one in distance, as in the claims
        found = {words: better(trained, method.name, value, words == drawn) for words, value in judged.items()}
        best = [words for words, one in found.items() if one.method == method and not one.lacks]
        notes += [f"the better form in {', '.join(best)}"] * bool(best)
    failed = [f"seed {one.seed}: {one.failed}" for one in form.trained.values() if one.failed]
    unconverged = any(row.get("nll_converged") is False for one in form.trained.values() for row in one.rows)
    stiff = [
        f"seed {one.seed}: {why}"
        for one in form.trained.values()
        if any("solution_error" in row or "solution_failed" in row for row in one.rows) and (why := adrift(one))
    ]
    return notes + failed + stiff + ["bits/dim not converged in some rows"] * (unconverged and not _all_bits(form))


def _all_bits(form: Form) -> bool:
    return len(values(form, bits)) == len(form.trained)


def table(plan: Plan, trained: Sequence[Trained], marked: str = "") -> list[list[str]]:
    """The table as text, headings first: `402 (398 to 406)` is the mean over training seeds and their range.

    `marked` says in what the data are not the published ones; it stands in the note of each line, the last column.
    """
    found, shown = lines(plan, trained, marked), quantities(trained)
    ours = [*shown]
    beside = list(dict.fromkeys(key for start in BESIDE for line in found for key in line if key.startswith(start)))
    head = ["method", "seeds", *map(heading, ours), *beside, "note"]
    return [head, *(_texts(line, ours, beside, marked) for line in found)]


def _texts(line: Line, ours: Sequence[str], beside: Sequence[str], marked: str) -> list[str]:
    own = [ranged(line, words) for words in ours]
    others = [_plain(line.get(words), words) for words in beside]
    note = "; ".join(filter(None, [line["note"], f"the data set {marked}" * bool(marked)]))
    return [line["method"], str(line["seeds"] or "none"), *own, *others, note]


def ranged(line: Line, words: str) -> str:
    """`402 (398 to 406)`; the range is left out where there is none, and seeds without a value are told."""
    value, seeds = line[words], line[f"{words}, seeds"]
    if value is None:
        return "none"
    ends = [_plain(line[f"{words}, {end}"], words) for end in ("least", "most")]
    missing = f", {seeds} of {line['seeds']} seeds" if seeds != line["seeds"] else ""
    return _plain(value, words) + (f" ({ends[0]} to {ends[1]})" if ends[0] != ends[1] else "") + missing


def _plain(value: float | str | None, words: str) -> str:
    if value is None or isinstance(value, str):
        return value or "none"
    sign = "+" if words.startswith(BESIDE[1]) and value > 0 else ""
    return sign + (f"{value:.3f}" if "bits" in words or "NLL" in words else number(value))


def table_note(plan: Plan, trained: Sequence[Trained], marked: str = "") -> str:
    """What a reader of the table has to know of it."""
    at = next((cell for one in trained if (cell := sampled(one))), None)
    where = f"dopri5 at {at.tolerance:g}, joint in batches of {at.batch}, {at.samples:,} samples" if at else "dopri5"
    real = SPLITS["training" if not at or at.reference_split == "heldout" else "heldout"]
    parts = [
        f"Figures are means over training seeds, in brackets their range. Distance and NFE: {where};"
        f" NFE is the mean over samples. The floor is what real {real} images get."
    ]
    if plan.scale != "full" or plan.dataset.key not in TABLE_1:
        parts.append(
            "Nothing is subtracted from published figures: "
            + ("none are of these data." if plan.dataset.key not in TABLE_1 else "they are of the full scale.")
        )
    if one_draw := NLL_K1.get(plan.dataset.key):
        gains = [one_draw[name] - (figures.nll or 0) for name, figures in TABLE_1[plan.dataset.key].items()]
        parts.append(
            "Published bits/dim most likely draw a probe for each dequantisation, which favours them: by"
            f" {min(gains):.2f} to {max(gains):.2f} at the largest K; at K = 1 there is no such gain."
        )
    return " ".join([*parts, *[f"These are not the published data: the data set {marked}."] * bool(marked)])


def csv_of(plan: Plan, trained: Sequence[Trained], marked: str = "") -> str:
    """The table's lines in full precision."""
    return _csv(lines(plan, trained, marked))


def rows_csv(trained: Sequence[Trained]) -> str:
    """Every row that was measured with its method and training seed, in full precision."""
    rows: list[Row] = []
    for one in trained:
        sorts = (("end", one.rows), ("along", one.along))
        rows += [_member(one) | {"kept": kept} | row for kept, some in sorts for row in some]
    return csv_table(rows)


def reports_csv(trained: Sequence[Trained]) -> str:
    """What the claim on stable training rests on: the gradient norm and losses of every report, in full precision."""
    return _csv([_member(one) | {k: v for k, v in r.items() if k in REPORTED} for one in trained for r in one.records])


def solving_csv(trained: Sequence[Trained]) -> str:
    """What drawing a grid took at each checkpoint."""
    return _csv([_member(one) | {k: v for k, v in r.items() if k != "time"} for one in trained for r in one.solving])


def _member(one: Trained) -> Line:
    return {"member": one.method.title, "training_seed": one.seed}


def _csv(found: Sequence[Line]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(key for line in found for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return out.getvalue()

"""The paper's table: what each method got here beside what was published of it, and the difference where there is one.

A figure of another kind (another distance, another K or probe, other data, another scale) is never subtracted.
"""

import csv
import io
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from fm.paper.methods import METHODS, NLL_K1, TABLE_1, Figures, K, Method
from fm.paper.plan import Plan
from fm.paper.reading import (
    Form,
    Value,
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
from fm.paper.trained import Trained
from fm.report.comparison import heading
from fm.results import Row, csv_table, number

NOTHING = Figures(None, None, None)
NOT_COMPARABLE = "not comparable"
FID_SAMPLES = 50_000
BESIDE = ("published ", "difference in ")  # how the columns that are not of our own figures begin
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


def lines(plan: Plan, trained: Sequence[Trained]) -> list[Line]:
    """Each method's figures in full: by quantity mean, s.d., least, most and seeds; published ones and differences."""
    shown = quantities(trained)
    return [_line(plan, trained, method, shown) for method in plan.methods]


def _line(plan: Plan, trained: Sequence[Trained], method: Method, shown: dict[str, Value]) -> Line:
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
    line |= {f"{BESIDE[1]}{name}": value for name, value in _differences(plan, form, figures).items()}
    return line | {"note": "; ".join(_notes(trained, form, shown))}


def _published(plan: Plan, name: str, figures: Figures) -> dict[str, float | None]:
    key = plan.dataset.key
    if key not in TABLE_1:
        return {}
    found: dict[str, float | None] = {"NLL, K = 1": NLL_K1.get(key, {}).get(name)} if key in NLL_K1 else {}
    return found | {f"NLL, K = {K[key]}": figures.nll, "FID": figures.fid, "NFE": figures.nfe}


def _differences(plan: Plan, form: Form, figures: Figures) -> dict[str, float | str | None]:
    """Ours minus published at full scale; `not comparable` where ours is of another kind."""
    key = plan.dataset.key
    if plan.scale != "full" or key not in TABLE_1 or not form.trained:
        return {}
    ones = [*form.trained.values()]
    row = next((row for one in ones for row in rows_of(one, sampled(one))), {})
    name = distance_name(ones)
    fid = is_fid(name) and row.get("samples") == FID_SAMPLES
    pairs: dict[str, tuple[Value, float | None, bool]] = {
        f"NLL, K = {K[key]}": (_bits("bits_per_dim_per_draw", K[key]), figures.nll, True),
        "FID": (distance(name), figures.fid, fid),
        "NFE": (nfe, figures.nfe, row.get("tolerance") == 1e-5),
    }
    if known := NLL_K1.get(key, {}).get(form.method.name):
        pairs = {"NLL, K = 1": (_bits("bits_per_dim_k1"), known, True)} | pairs
    return {words: _difference(form, *pair) for words, pair in pairs.items()}


def _difference(form: Form, value: Value, published: float | None, comparable: bool) -> float | str | None:
    """The mean over seeds minus what was published; None without a published figure."""
    known = values(form, value).values()
    if published is None:
        return None
    return fmean(known) - published if comparable and known else NOT_COMPARABLE


def _notes(trained: Sequence[Trained], form: Form, shown: dict[str, Value]) -> list[str]:
    """What a reader has to know of a line."""
    method = form.method
    notes = (
        [f"repeats the training of {METHODS[method.same_as].title}, whose figures these are"] if method.same_as else []
    )
    notes += ["extra row: the paper has no figure of it"] * (not method.published)
    judged = {words: value for words, value in shown.items() if words != "floor"}
    if len(forms(trained, method.name)) > 1 and form.trained:
        best = [words for words, value in judged.items() if better(trained, method.name, value).method == method]
        notes += [f"the better form in {', '.join(best)}"] * bool(best)
    failed = [f"seed {one.seed}: {one.failed}" for one in form.trained.values() if one.failed]
    unconverged = any(row.get("nll_converged") is False for one in form.trained.values() for row in one.rows)
    return notes + failed + ["bits/dim not converged in some rows"] * (unconverged and not _all_bits(form))


def _all_bits(form: Form) -> bool:
    return len(values(form, bits)) == len(form.trained)


def table(plan: Plan, trained: Sequence[Trained], marked: str = "") -> list[list[str]]:
    """The table as text, headings first: `402 (398 to 406)` is the mean over training seeds and their range.

    `marked` says in what the data are not the published ones; it stands in the note of each line, the last column.
    """
    found, shown = lines(plan, trained), quantities(trained)
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
    """`402 (398 to 406)`; the range is left out where there is none."""
    value = line[words]
    if value is None:
        return "none"
    ends = [_plain(line[f"{words}, {end}"], words) for end in ("least", "most")]
    return _plain(value, words) + (f" ({ends[0]} to {ends[1]})" if ends[0] != ends[1] else "")


def _plain(value: float | str | None, words: str) -> str:
    if value is None or isinstance(value, str):
        return value or "none"
    sign = "+" if words.startswith(BESIDE[1]) and value > 0 else ""
    return sign + (f"{value:.3f}" if "bits" in words or "NLL" in words else number(value))


def table_note(plan: Plan, trained: Sequence[Trained], marked: str = "") -> str:
    """What a reader of the table has to know of it."""
    at = next((cell for one in trained if (cell := sampled(one))), None)
    where = f"dopri5 at {at.tolerance:g}, joint in batches of {at.batch}, {at.samples:,} samples" if at else "dopri5"
    parts = [
        f"Figures are means over training seeds, in brackets their range. Distance and NFE: {where};"
        " NFE is the mean over samples. The floor is what real training images get."
    ]
    if plan.scale != "full" or plan.dataset.key not in TABLE_1:
        parts.append(
            "Nothing is subtracted from published figures: "
            + ("none are of these data." if plan.dataset.key not in TABLE_1 else "they are of the full scale.")
        )
    parts.append(
        "Published bits/dim most likely draw a probe for each dequantisation, which favours them by about 0.1 at the"
        " largest K; at K = 1 there is no such gain."
    )
    return " ".join([*parts, *[f"These are not the published data: the data set {marked}."] * bool(marked)])


def csv_of(plan: Plan, trained: Sequence[Trained]) -> str:
    """The table's lines in full precision."""
    found = lines(plan, trained)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(key for line in found for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return out.getvalue()


def rows_csv(trained: Sequence[Trained]) -> str:
    """Every row that was measured with its method and training seed, in full precision."""
    rows: list[Row] = []
    for one in trained:
        own = {"member": one.method.title, "training_seed": one.seed}
        rows += [own | {"kept": kept} | row for kept, some in (("end", one.rows), ("along", one.along)) for row in some]
    return csv_table(rows)

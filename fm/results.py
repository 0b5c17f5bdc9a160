"""A result is a Row: one flat JSON object: numbers, uncertainty, floors, lineage. Where rows lie, and their tables."""

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fm.errors import DataError, several
from fm.files import read_json, write_json
from fm.lineage import digest

Row = dict[str, Any]
SIMILARITIES = ("precision", "recall")  # among the distances: better the higher
SETTLED = 1 / 256  # half of a grey level: by so much two fine solutions may differ and count as converged
FINE = 10.5  # a tolerance is fine up to so many times that of the solutions; beyond, a difference is its own
UNIFORM_BITS = (
    8.0  # what uniform noise over 256 levels costs: no model of it can do better, any model of pictures should
)


def row_file(run: Path, key: str) -> Path:
    return run / "evaluations" / f"{key}.json"


def write_row(run: Path, row: Row) -> Path:
    """Stores a row under its own key in RUN/evaluations, sealed: a value changed by hand is no measurement."""
    file = row_file(run, row["key"])
    write_json(file, row | {"seal": _seal(row)})
    return file


def _seal(row: Row) -> str:
    return digest({name: value for name, value in row.items() if name != "seal"})


def read_row(run: Path, key: str) -> Row | None:
    """The row of that key, or None if it has not been measured, or was changed since.

    Raises: DataError if the file holds another row.
    """
    file = row_file(run, key)
    if not file.exists():
        return None
    row = read_json(file)
    if not isinstance(row, dict) or row.get("key") != key:
        raise DataError("holds the row of another key", where=str(file), mend="delete it; it will be measured again")
    if row.pop("seal", None) != _seal(row):
        return None
    return row


def existing_row(run: Path, key: str) -> Row:
    """The row of that key.

    Raises: DataError if it has not been measured.
    """
    row = read_row(run, key)
    if row is None:
        raise DataError("no such row, or changed since", where=str(row_file(run, key)), mend="evaluate again")
    return row


def read_rows(run: Path) -> list[Row]:
    """All rows of a RUN, in the order of its tables."""
    rows = [read_row(run, file.stem) for file in sorted((run / "evaluations").glob("*.json"))]
    return in_order(row for row in rows if row is not None)


def in_order(rows: Iterable[Row]) -> list[Row]:
    """By method, path, solver (adaptive last), evaluations, seed."""

    def place(row: Row) -> tuple[Any, ...]:
        adaptive = row["tolerance"] is not None
        return (
            row["method"],
            row["path"],
            adaptive,
            row["solver"],
            row.get("chosen_grid", ""),
            row.get("guidance") or 0.0,
            row["nfe"] or 0,
            -(row["tolerance"] or 0),
            row["seed"],
        )

    return sorted(rows, key=place)


def pooled(rows: Iterable[Row]) -> list[Row]:
    """One row for each cell: of several seeds the mean of what was measured, with `<name>_sd`, `<name>_best`, `seeds`.

    Its `_low` and `_high` are one s.d. from the mean; nfe is the most that a seed took; a failed seed is left out where
    another is there.
    """
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for row in in_order(rows):
        nfe = row["nfe"] if row["tolerance"] is None else None
        same = *(row.get(name) for name in SAME), str([row.get(name) for name in GUIDED]), nfe
        cells.setdefault(same, []).append(row)
    return [_pooled([row for row in group if "failed" not in row] or group[:1]) for group in cells.values()]


GUIDED = ("guidance", "guidance_interval", "guide", "chosen_grid")
SAME = ("method", "path", "weights", "solver", "tolerance", "control", "samples", "data", "features", "batch")
OF_BITS = (
    *("bits_per_dim", "bits_per_dim_stderr", "bits_per_dim_k1", "bits_per_dim_per_draw", "bits_per_dim_train"),
    *("bits_per_dim_train_stderr", "generalisation_gap", "generalisation_gap_stderr"),
)
# Of super-resolution: to the image that should have come out, and of means over pixels to the small picture.
FIDELITIES = {"PSNR": "psnr", "SSIM": "ssim", "PSNR, brought down": "low_psnr"}
MEANS = (
    *FIDELITIES.values(),
    *(f"{name}_stderr" for name in FIDELITIES.values()),
    "nfe_mean",
    "nll_nfe",
    "inception_score",
    "inception_score_sd",
    "solution_error",
    "solution_error_stderr",
)


def _pooled(group: list[Row]) -> Row:
    """All seeds score the same images: the standard error of bits/dim is a seed's own."""
    if len(group) == 1:
        return group[0]
    one: Row = {**group[0], "seeds": len(group), "nfe": max(row["nfe"] for row in group)}
    one["seconds"] = sum(row["seconds"] for row in group)
    for name in distances(group):
        mean, spread = fmean(row[name] for row in group), stdev(row[name] for row in group)
        best = (max if name.startswith(SIMILARITIES) else min)(row[name] for row in group)
        one |= {name: mean, f"{name}_sd": spread, f"{name}_best": best}
        one |= {f"{name}_low": mean - spread, f"{name}_high": mean + spread}
        floor = one.get(f"{name}_floor")
        one[f"{name}_ratio"] = mean / floor if floor and floor > 0 else None
    for name in (*MEANS, *OF_BITS):
        values = [row[name] for row in group if row.get(name) is not None]
        if values:
            one[name] = fmean(values)
    if any(row.get("nll_converged") is False for row in group):  # of some seeds it would be a choice
        one |= dict.fromkeys(OF_BITS) | {"nll_converged": False}
    return one


def distances(rows: Iterable[Row]) -> list[str]:
    """The names of the distances that these rows hold: those that come with an interval; similarities come last."""
    names = {name.removesuffix("_low") for row in rows for name in row if name.endswith("_low")}
    return sorted(names, key=lambda name: (name.startswith(SIMILARITIES), name))


def worse(row: Row, name: str) -> float:
    """The row's distance of that name, or its similarity negated: the lower, the better."""
    return -row[name] if name.startswith(SIMILARITIES) else row[name]


def guidance_text(guidance: float, interval: Sequence[float] = (0.0, 1.0), guide: str = "") -> str:
    """`, guidance 1.5 at 0.2 to 0.8, by 1f3a5b7c`; empty for none."""
    if not guidance:
        return ""
    between = "" if tuple(interval) == (0.0, 1.0) else f" at {interval[0]:g} to {interval[1]:g}"
    return f", guidance {guidance:g}{between}" + (f", by {guide[:8]}" if guide else "")


def grid_text(grid: str) -> str:
    """`, edm grid`; empty for the solver's own."""
    return f", {grid} grid" if grid else ""


def label(row: Row) -> str:
    """`euler`, `euler, edm grid`, `dopri5 at 0.001`, `dopri5 at 0.001 per sample`; and how it is guided."""
    guided = guidance_text(row.get("guidance") or 0.0, row.get("guidance_interval", (0.0, 1.0)), row.get("guide", ""))
    if row["tolerance"] is None:
        return row["solver"] + grid_text(row.get("chosen_grid", "")) + guided
    own = " per sample" if row.get("control") == "per_sample" else ""
    return f"{row['solver']} at {row['tolerance']:g}{own}{guided}"


def number(value: float) -> str:
    """Three significant digits, and no digit lost above a hundred."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def distance_text(row: Row, name: str) -> str:
    """`399 ± 21`: half the 95 % interval, of several seeds their s.d.; empty where it was not measured."""
    if "failed" in row:
        return "failed"
    if row.get(name) is None:
        return ""
    half = (row[f"{name}_high"] - row[f"{name}_low"]) / 2
    return f"{number(row[name])} ± {number(half)}"


def floor_text(row: Row, name: str) -> str:
    return "" if row.get(f"{name}_floor") is None else number(row[f"{name}_floor"])


def bits_text(row: Row) -> str:
    """`4.18 ± 0.11` (standard error), or that it has not converged: a raw number there would be read as a record."""
    if row.get("bits_per_dim") is not None:
        spread = row.get("bits_per_dim_stderr")
        return f"{row['bits_per_dim']:.2f}" + ("" if spread is None else f" ± {spread:.2f}")
    return "" if row.get("nll_converged") is None else "not converged"


def columns(rows: Sequence[Row]) -> list[tuple[str, Callable[[Row], str]]]:
    """Heading and cell text of each column of the table of these pooled rows."""
    table: list[tuple[str, Callable[[Row], str]]] = [
        ("method", lambda r: r["method"]),
        ("path", lambda r: r["path"]),
        ("solver", label),
        ("NFE", lambda r: "" if r["nfe"] is None else str(r["nfe"])),
        ("samples", lambda r: f"{r['samples']} x {r['seeds']} seeds" if "seeds" in r else str(r["samples"])),
    ]
    for name in distances(rows):
        table.append((name, lambda r, name=name: distance_text(r, name)))  # type: ignore[misc]
        table.append(("floor", lambda r, name=name: floor_text(r, name)))  # type: ignore[misc]
        if not name.startswith(SIMILARITIES) and any(row.get(f"{name}_ratio") is not None for row in rows):
            table.append(("x floor", lambda r, name=name: _times(r.get(f"{name}_ratio"))))  # type: ignore[misc]
        if any(row.get(f"{name}_best") is not None for row in rows):
            words = "most" if name.startswith(SIMILARITIES) else "least"
            table.append((words, lambda r, name=name: _plain(r.get(f"{name}_best"))))  # type: ignore[misc]
    for words, name in FIDELITIES.items():
        if any(row.get(name) is not None for row in rows):
            table.append((words, lambda r, name=name: _with_stderr(r, name)))  # type: ignore[misc]
    table.append(("bits/dim", bits_text))
    if any((row.get("nll_k") or 1) > 1 for row in rows):
        table.append(("K = 1", lambda r: _bits(r.get("bits_per_dim_k1"))))
    if any("bits_per_dim_per_draw" in row for row in rows):
        table.append(("probe per draw", lambda r: _bits(r.get("bits_per_dim_per_draw"))))
    if any("bits_per_dim_train" in row for row in rows):
        table.append(("of training images", lambda r: _bits(r.get("bits_per_dim_train"))))
        table.append(("gap", _gap_text))
    if any("solution_error" in row for row in rows):
        table.append(("solver's error", lambda r: number(r["solution_error"]) if "solution_error" in r else ""))
    return [*table, ("seconds", lambda r: f"{r['seconds']:.1f}")]


def _with_stderr(row: Row, name: str) -> str:
    if row.get(name) is None:
        return ""
    spread = row.get(f"{name}_stderr")
    digits = 3 if name == "ssim" else 2
    return f"{row[name]:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{number(ratio)} x"


def _plain(value: float | None) -> str:
    return "" if value is None else number(value)


def _bits(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _gap_text(row: Row) -> str:
    if row.get("generalisation_gap") is None:
        return ""
    spread = row.get("generalisation_gap_stderr")
    return f"{row['generalisation_gap']:.3f}" + ("" if spread is None else f" ± {spread:.3f}")


def table(rows: Iterable[Row]) -> list[list[str]]:
    """The table as text: the headings, then a line for each row in order."""
    ordered = in_order(pooled(rows))
    shown = columns(ordered)
    return [[heading for heading, _ in shown], *([text(row) for _, text in shown] for row in ordered)]


def text_table(rows: Iterable[Row]) -> str:
    """The table for the terminal."""
    return aligned(table(rows))


def aligned(lines: Sequence[Sequence[str]], left: int = 3) -> str:
    """A table of texts in aligned columns, its first `left` ones words, the others numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
        return "  ".join(padded).rstrip()

    return "\n".join([line(lines[0]), "  ".join("-" * w for w in widths), *map(line, lines[1:])])


def table_note(rows: Iterable[Row]) -> str:
    """What a reader of the table has to know of it, or nothing."""
    rows = list(rows)
    seeds = ["of several seeds the mean, ± their s.d., and the best one"] * (len({r.get("seed") for r in rows}) > 1)
    return "; ".join([*seeds, *notes_on(rows)]) + "." * bool(seeds or notes_on(rows))


def notes_on(rows: Sequence[Row]) -> list[str]:
    """What holds for these rows in any table: what has not converged, failed, or is of too few pictures."""
    notes = []
    if any(row.get("nll_converged") is False for row in rows):
        notes.append(
            "not converged: with twice the steps bits/dim moves by 0.001 or more (its images by 0.01 on average), "
            "as it does for few fixed steps"
        )
    if adrift := [far for far in map(apart, _by_network(rows)) if far is not None and far > SETTLED]:
        notes.append(
            f"solver's error: another fine solution ends {number(max(adrift))} from those that count as converged,"
            " which so have not, and no such figure of that network is an error"
        )
    if unsolved := [row["solution_failed"] for row in rows if row.get("solution_failed")]:
        notes.append(f"solver's error: there are no solutions to measure it against: {unsolved[0]}")
    if failed := [row for row in rows if "failed" in row]:
        notes.append(f"{several(len(failed), 'cell')} failed, the first one so: {failed[0]['failed']}")
    if short := [row for row in rows if _rank_deficient(row)]:
        fewest, width = min(map(_fewest, short)), short[0]["features_dimensions"]
        notes.append(f"fd: {fewest} pictures do not span {width} dimensions; its bias is large, kid has none")
    return notes


def apart(rows: Iterable[Row]) -> float | None:
    """RMS a value between the solutions that errors of these rows of one network are measured against, and others of a
    tolerance nearly as fine: where they differ by more than `SETTLED`, the network is too stiff for either. None where
    no such row was measured, infinite where one of its samples has no solution."""
    known = [row for row in rows if row.get("solution_error") is not None and row.get("tolerance")]
    fine = [row for row in known if 1 < row["tolerance"] / row.get("solution_error_tolerance", math.inf) <= FINE]
    lost = any(row.get("samples_not_finite") or not math.isfinite(row["solution_error"]) for row in fine)
    return math.inf if lost else max((row["solution_error"] for row in fine), default=None)


def _by_network(rows: Iterable[Row]) -> list[list[Row]]:
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(row.get("weights"), []).append(row)
    return [*found.values()]


def _rank_deficient(row: Row) -> bool:
    """Whether a Frechet distance in this row is of a singular covariance; a failed row does not say."""
    known = "features_dimensions" in row and any(name.startswith("fd_") for name in row)
    return known and _fewest(row) <= row["features_dimensions"]


def _fewest(row: Row) -> int:
    """The fewest pictures that a covariance of this row is of."""
    from fm.metrics.frechet import PIECES

    samples = row["samples"] // (PIECES if any(name.startswith("fd_infinity_") for name in row) else 1)
    return min(samples, row["reference_images"])


def csv_table(rows: Iterable[Row]) -> str:
    """Every key of every row, full precision: for further computing."""
    ordered = in_order(rows)
    names = list(dict.fromkeys(name for row in ordered for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(ordered)
    return out.getvalue()

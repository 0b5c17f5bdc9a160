"""Claims on quality: distance and bits/dim at equal budget, distance along the training, generalisation."""

from collections.abc import Sequence

from fm.comparing import BITS, Cell, cell_of, paired, run_of
from fm.paper.claim import (
    DRAWING,
    IN_EACH,
    WHOLE,
    Claim,
    Difference,
    Finding,
    against_all,
    by_rows,
    contrast,
    decided,
    doubted,
    lacking,
    paired_below,
)
from fm.paper.methods import OT
from fm.paper.reading import (
    BASELINES,
    Form,
    better,
    bits,
    distance,
    distance_name,
    mean_of,
    rows_of,
    sampled,
    scored,
)
from fm.paper.trained import Trained
from fm.results import Row, number

MARGIN = 0.02  # bits/dim by which a generalisation gap may be the larger one


def best_distance(trained: Sequence[Trained]) -> Claim:
    """FID of Table 1, here by the distance that was measured."""
    name = distance_name(trained)
    return decided(
        "distance",
        "Best distance",
        "At equal budget FM w/ OT has the lowest FID.",
        f"{_named(name)} of samples of dopri5 at the finest tolerance: {paired_below('noise')}{DRAWING}",
        against_all(trained, distance(name), by_rows(name, sampled), pictures=True),
        WHOLE,
    )


def best_bits(trained: Sequence[Trained]) -> Claim:
    """NLL of Table 1."""
    return decided(
        "nll",
        "Best likelihood",
        "At equal budget FM w/ OT has the lowest negative log-likelihood.",
        f"Bits/dim of held-out images, converged: {paired_below('image')}",
        against_all(trained, bits, by_rows(BITS, scored)),
        f"{WHOLE}; all test images",
    )


def _named(name: str) -> str:
    return name or "A distance"


def faster(trained: Sequence[Trained]) -> Claim:
    """Figure 5: FID against images seen."""
    name = distance_name(trained)
    ours, *others = (better(trained, method, final(name), pictures=True) for method in (OT, *BASELINES))
    return decided(
        "along",
        "Faster training",
        "FM w/ OT trains faster: at equal images seen its FID is lower.",
        f"{_named(name)} at each kept checkpoint{_point(trained)}: {IN_EACH}, OT is already below the other's final"
        " distance at a checkpoint before the last, and is above the other at none; both by the paired 95 % interval."
        f" At so few evaluations the solver's error is part of the distance, and grows with the bend of the"
        f" trajectories as well as with what the network has not learnt.{DRAWING}",
        [finding for other in others for finding in _along(name, ours, other)],
        f"{WHOLE}; more checkpoints",
    )


def _point(trained: Sequence[Trained]) -> str:
    """The solver and evaluations that samples along the training were drawn with."""
    points = dict.fromkeys(str(cell_of(row)) for one in trained for row in one.along)
    return f" ({', '.join(points)})" if points else ""


def final(name: str):
    """The distance at the last kept checkpoint."""
    return lambda one: mean_of(_points(one, name)[-1:], name)


def _points(one: Trained, name: str) -> list[Row]:
    rows = [row for row in one.along if row.get(name) is not None]
    return sorted(rows, key=lambda row: row["images_seen"])


def _along(name: str, ours: Form, other: Form) -> list[Finding]:
    if lacks := lacking(ours, other):
        return [Finding(None, lacks)]
    found = [_of_seed(name, one, other.trained[seed], other.title) for seed, one in ours.trained.items()]
    return [doubted(one, other) for one in found]


def _of_seed(name: str, ours: Trained, other: Trained, title: str) -> Finding:
    """One seed's checkpoints against those of the other with as many images seen."""
    mine, theirs = ({row["images_seen"]: row for row in _points(one, name)} for one in (ours, other))
    both, words = sorted(mine.keys() & theirs.keys()), f"seed {ours.seed}, against {title}"
    if len(both) < 2:
        return Finding(None, f"{words}: fewer than two checkpoints of both")
    last = theirs[both[-1]]
    to_last = {seen: _better(name, mine[seen], last) for seen in both[:-1]}
    to_own = {seen: _better(name, mine[seen], theirs[seen]) for seen in both}
    if None in (*to_last.values(), *to_own.values()):
        return Finding(None, f"{words}: checkpoints were not measured alike")
    early = [seen for seen, which in to_last.items() if which == "ours"]
    above = [seen for seen, which in to_own.items() if which == "other"]
    told = f"never below its final {number(last[name])} before the last checkpoint"
    if early:
        told = f"below its final {number(last[name])} after {early[0]:,} images of {both[-1]:,}"
    at = f"; above it at {', '.join(f'{seen:,}' for seen in above)}" if above else "; above it at no checkpoint"
    pairs = ", ".join(f"{number(mine[seen][name])} / {number(theirs[seen][name])}" for seen in both)
    return Finding(bool(early) and not above, f"{words}: {told}{at} ({pairs})")


def _better(name: str, ours: Row, other: Row) -> str | None:
    """Which of two rows is better, paired; empty if neither, None if they cannot be paired."""
    cell = cell_of(ours)
    runs = run_of("other", "", [other]), run_of("ours", "", [ours])
    found = paired(name, cell, *runs) if cell in runs[0].cells else None
    return None if found is None or found.difference is None else found.better


def generalising(trained: Sequence[Trained]) -> Claim:
    """Bits/dim of training images against held-out ones."""
    return decided(
        "generalisation",
        "Generalisation",
        "FM w/ OT's likelihood generalises as well as the baselines'.",
        f"Held-out minus training bits/dim: {IN_EACH}, OT's gap exceeds the other's by less than {MARGIN} with the"
        " upper end of its 95 % interval, paired by image.",
        [*_gaps(trained), *against_all(trained, gap, gap_difference, MARGIN)],
        f"{WHOLE}; thousands of images of both splits",
    )


def gap(one: Trained) -> float | None:
    """Held-out minus training bits/dim."""
    return mean_of(rows_of(one, scored(one)), "generalisation_gap")


def _gaps(trained: Sequence[Trained]) -> list[Finding]:
    """Each seed's own gap of OT: said beside the differences, and decides nothing."""
    found = []
    for one in better(trained, OT, gap).trained.values():
        row = rows_of(one, scored(one))[0]
        half = 1.96 * (row.get("generalisation_gap_stderr") or 0)
        found.append(Finding(True, f"{OT}, seed {one.seed}: gap {row['generalisation_gap']:+.3f} ± {half:.3f}"))
    return found


def gap_difference(ours: Trained, other: Trained) -> Difference:
    """The difference of two gaps, of the same held-out and the same training images."""
    at: Cell | None = scored(ours)
    alike = by_rows(BITS, scored)(ours, other)
    if isinstance(alike, str):
        return alike
    sides = zip((1, -1), (rows_of(one, at)[0] for one in (ours, other)), strict=True)
    terms = [(s * t, row, name) for s, row in sides for t, name in ((1, BITS), (-1, "bits_per_dim_train"))]
    if not all(row.get(f"{name}_without") for _, row, name in terms):
        return "too few training images"
    return contrast(terms)

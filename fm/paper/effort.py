"""Claims on evaluations: how many dopri5 takes, how many an equal numerical error takes, what few of them cost."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

from fm.jackknife import GROUPS, half_interval
from fm.paper.claim import (
    APART,
    DRAWING,
    WHOLE,
    Claim,
    Difference,
    Finding,
    Judge,
    against,
    against_all,
    alone,
    by_rows,
    contrast,
    counted,
    decided,
    doubted,
    lacking,
    paired_below,
    unlike,
)
from fm.paper.methods import DIFFUSION, METHODS, OT
from fm.paper.plan import SWEEP
from fm.paper.reading import (
    BASELINES,
    CONVERGED,
    Form,
    OfSolutions,
    Value,
    adrift,
    better,
    distance_name,
    forms,
    nfe,
    rows_of,
    sampled,
    swept,
    values,
)
from fm.paper.trained import Trained
from fm.progress import GRID
from fm.results import apart, number

ERROR = "solution_error"
TOGETHER = "together"
LEVELS = 9  # of numerical error, evenly spaced on a logarithmic scale, at which evaluations are compared
READ, SHARE = 0.6, 0.7  # of diffusion's evaluations: what the paper reads off its Figure 7, and what still counts
FLAT = 1.25  # the most of a training's NFE by its least


def fewest(trained: Sequence[Trained]) -> Claim:
    """NFE of Table 1."""
    ours = better(trained, OT, nfe)
    return decided(
        "nfe",
        "Fewest evaluations",
        "At equal budget FM w/ OT takes the fewest evaluations of dopri5.",
        "NFE a sample of dopri5 (joint) at the finest tolerance: the worst training seed of OT is below the best seed"
        f" of each baseline in its better form.{APART}",
        [_fewer(ours, better(trained, name, nfe)) for name in BASELINES],
        WHOLE,
    )


def _fewer(ours: Form, other: Form) -> Finding:
    """NFE of two forms measured alike: that of a joint batch is of its size too."""
    cells = {sampled(one) for form in (ours, other) for one in form.trained.values()}
    if not lacking(ours, other) and len(cells) > 1:
        return Finding(None, f"{ours.title} and {other.title} were not measured alike")
    return counted(ours, other, nfe, "NFE")


def equal_error(trained: Sequence[Trained]) -> Claim:
    """Figure 7, left: numerical error against NFE."""
    sides = [better(trained, name, OfSolutions(_any_error)) for name in (OT, DIFFUSION)]
    lacks = lacking(*sides)
    found = (
        [Finding(None, lacks)]
        if lacks
        else [_decides(ratios(one, sides[1].trained[seed]), seed) for seed, one in sides[0].trained.items()]
    )
    return decided(
        "error",
        "Evaluations for equal error",
        "For equal numerical error FM w/ OT takes about 60 % of the evaluations of FM w/ Diffusion.",
        f"The mean ratio of NFE at {LEVELS} levels of numerical error that both reach, interpolated on logarithmic"
        " scales, its 95 % interval from leaving out the same groups of samples of both. About 60 % counts as shown if"
        f" in each seed the upper end lies below 1 with each of {', '.join(SWEEP)}, and the ratio over the three is at"
        f" most {SHARE}; fewer than 60 % count too.{CONVERGED} Errors no"
        " larger than what these differ by do not count.",
        found + _beside(sides[0], trained),
        "a network as large as the paper's, trained to the end, and sweeps up to 100 evaluations (`--scale full`)",
    )


def _any_error(one: Trained) -> float | None:
    return next((error for solver in SWEEP for _, error in errors(one, solver)), None)


def errors(one: Trained, solver: str, group: int | None = None) -> list[tuple[float, float]]:
    """(NFE, numerical error) of a solver by budget, without those that more evaluations do not make smaller, and those
    that are no larger than what two converged solutions differ by; of all samples, or without one group of them."""
    points: list[tuple[float, float]] = []
    if adrift(one):
        return points
    floor = apart(one.rows) or 0.0
    for cell in swept(one, solver):
        rows = [row for row in rows_of(one, cell) if row.get(ERROR)]
        found = [row[ERROR] if group is None else row[f"{ERROR}_without"][group] for row in rows]
        if found and floor < fmean(found) < (points[-1][1] if points else math.inf):
            points.append((float(cell.nfe or 0), fmean(found)))
    return points


Ratio = tuple[float, float, float] | str  # with the ends of its 95 % interval, or why there is none


def ratios(ours: Trained, other: Trained) -> dict[str, Ratio]:
    """NFE of one by that of the other at equal error, by solver and `together`."""
    logs = {solver: _logs(ours, other, solver) for solver in SWEEP}
    told: dict[str, Ratio] = {
        solver: found if isinstance(found, str) else _ends(found) for solver, found in logs.items()
    }
    known = [found for found in logs.values() if not isinstance(found, str)]
    if len(known) < len(SWEEP):
        return told
    return told | {TOGETHER: _ends([fmean(group) for group in zip(*known, strict=True)])}


def _logs(ours: Trained, other: Trained, solver: str) -> list[float] | str:
    """The log ratio of NFE of a solver, then what it is without each group of samples; or why it is not known."""
    rows = [
        [row for cell in swept(one, solver) for row in rows_of(one, cell) if row.get(ERROR)] for one in (ours, other)
    ]
    if lost := adrift(ours) or adrift(other):
        return lost
    if not all(row.get(f"{ERROR}_without") for side in rows for row in side):
        return f"its rows lack {ERROR}_without, of which its interval is"
    if all(rows) and unlike(rows[0][0], rows[1][0]):
        return "of other noise or samples"
    found = [share(*(errors(one, solver, group) for one in (ours, other))) for group in (None, *range(GROUPS))]
    known = [math.log(ratio) for ratio in found if ratio is not None]
    return known if len(known) == len(found) else "no common error"


def _ends(logs: Sequence[float]) -> tuple[float, float, float]:
    """The ratio with its 95 % interval."""
    half = half_interval(logs[1:])
    return math.exp(logs[0]), math.exp(logs[0] - half), math.exp(logs[0] + half)


def _decides(found: dict[str, Ratio], seed: int) -> Finding:
    """One seed's ratios of NFE to FM w/ Diffusion's."""
    known = {name: ratio for name, ratio in found.items() if not isinstance(ratio, str)}
    over = known.get(TOGETHER)
    against = any(upper >= 1 for _, _, upper in known.values()) or (over is not None and over[0] > SHARE)
    inside = f"; {READ} lies {'in' if over[1] <= READ <= over[2] else 'outside of'} this interval" if over else ""
    words = f"seed {seed}: NFE of {OT} by that of {DIFFUSION}: {_told(found)}{inside}"
    return Finding(False if against else True if over else None, words)


def _told(found: dict[str, Ratio]) -> str:
    """`euler 0.62 (0.60 to 0.64)` and so on; why there is none once, if it is the same for all."""
    if len(same := {*found.values()}) == 1 and isinstance(why := same.pop(), str):
        return why
    return ", ".join(
        f"{name} {ratio if isinstance(ratio, str) else f'{ratio[0]:.2f} ({ratio[1]:.2f} to {ratio[2]:.2f})'}"
        for name, ratio in found.items()
    )


def _beside(ours: Form, trained: Sequence[Trained]) -> list[Finding]:
    """The ratios to the other baselines, each of their trainings once: said, and decide nothing."""
    others = [form for name in BASELINES if name != DIFFUSION for form in forms(trained, name)]
    return [
        Finding(True, f"beside it, seed {seed}, by that of {form.title}: {_told(ratios(one, form.trained[seed]))}")
        for form in others
        if not form.method.same_as
        for seed, one in ours.trained.items()
        if seed in form.trained
    ]


def share(ours: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]) -> float | None:
    """The geometric mean ratio of NFE at error levels that both curves reach; None if there are none."""
    if min(len(ours), len(other)) < 2:
        return None
    low, high = (pick(math.log(p[end][1]) for p in (ours, other)) for pick, end in ((max, -1), (min, 0)))
    if low >= high:
        return None
    levels = [low + (high - low) * i / (LEVELS - 1) for i in range(LEVELS)]
    return math.exp(fmean(_log_nfe(ours, level) - _log_nfe(other, level) for level in levels))


def _log_nfe(points: Sequence[tuple[float, float]], level: float) -> float:
    """Log NFE at a log error within the curve, by straight lines."""
    logs = [(math.log(n), math.log(error)) for n, error in points]
    (n_0, e_0), (n_1, e_1) = next((pair for pair in pairwise(logs) if pair[1][1] <= level), (logs[-2], logs[-1]))
    return n_0 + (n_1 - n_0) * (e_0 - level) / (e_0 - e_1)


def few_steps(trained: Sequence[Trained]) -> Claim:
    """Figure 7, right: FID against NFE."""
    name = distance_name(trained)
    found = [
        Finding(one.holds, f"{solver}: {one.says}")
        for solver in SWEEP
        for one in against_all(trained, at_largest(name, solver), _rises(name, solver), pictures=True)
    ]
    return decided(
        "low-nfe",
        "Distance at few evaluations",
        "FM w/ OT's FID degrades least at few evaluations.",
        f"The rise of {name or 'the distance'} from a solver's largest budget to its smallest, for each of"
        f" {', '.join(SWEEP)}: {paired_below('noise', 'the difference of the rises')} The better form is that of the"
        f" lower distance at the largest budget: one that is bad at every budget rises little.{DRAWING}",
        found + _other_rises(trained, name),
        WHOLE,
    )


def _other_rises(trained: Sequence[Trained], name: str) -> list[Finding]:
    """The rises against the forms that are not the better ones: said, and decide nothing."""
    found, repeated = list[Finding](), [one for one in METHODS.values() if one.same_as]
    for solver in SWEEP:
        value = at_largest(name, solver)
        ours = better(trained, OT, value, pictures=True)
        for baseline in BASELINES if not ours.lacks else ():
            best = better(trained, baseline, value, pictures=True)
            for form in forms(trained, baseline):
                if form.method not in (best.method, *repeated) and len(values(form, value)) == len(form.trained) > 0:
                    found.append(
                        Finding(True, f"beside it, {solver}: {against(ours, form, _rises(name, solver)).says}")
                    )
    return found


def at_largest(name: str, solver: str) -> Value:
    """A distance at a solver's largest budget; None unless it is known at the smallest one too."""

    def value(one: Trained) -> float | None:
        ends = [rows_of(one, cell) for cell in swept(one, solver)]
        if len(ends) < 2 or not all(rows and rows[0].get(name) is not None for rows in (ends[0], ends[-1])):
            return None
        return ends[-1][0][name]

    return value


def _rises(name: str, solver: str) -> Judge:
    def judge(ours: Trained, other: Trained) -> Difference:
        ends = [swept(ours, solver)[end] for end in (0, -1)]
        for cell in ends:
            alike = by_rows(name, lambda _, cell=cell: cell)(ours, other)  # type: ignore[misc]
            if isinstance(alike, str):
                return alike
        signs = ((1, ours, ends[0]), (-1, ours, ends[1]), (-1, other, ends[0]), (1, other, ends[1]))
        return contrast([(sign, rows_of(one, cell)[0], name) for sign, one, cell in signs])

    return judge


def flat(trained: Sequence[Trained]) -> Claim:
    """Figure 10: NFE over the training."""
    ours = better(trained, OT, nfe)
    found = [
        alone(Finding(v <= FLAT, f"{OT}, seed {seed}: {_course(ours.trained[seed])}, most by least {v:.2f}"), ours)
        for seed, v in values(ours, unevenness).items()
    ]
    return decided(
        "solving",
        "Evaluations along the training",
        "The evaluations that FM w/ OT takes stay flat while it trains, and no baseline takes fewer.",
        f"NFE of dopri5 for a grid of {GRID} samples, one joint batch of the same noise at each kept checkpoint: in"
        f" each seed of OT the most is at most {FLAT} times the least, and at no checkpoint more than the same seed of"
        " a baseline takes there, in the form that takes fewer at the end.",
        [*(found or [Finding(None, ours.lacks or f"{OT}: fewer than two checkpoints")]), *_below(ours, trained)],
        "a longer training with more checkpoints: early on the network still learns what to integrate",
    )


def _below(ours: Form, trained: Sequence[Trained]) -> list[Finding]:
    """At which checkpoints OT takes more evaluations than a baseline, seed by seed."""
    found = []
    for other in (better(trained, name, nfe) for name in BASELINES):
        if lacks := lacking(ours, other):
            found.append(Finding(None, lacks))
            continue
        for seed, one in ours.trained.items():
            mine, theirs = dict(solved(one)), dict(solved(other.trained[seed]))
            both = sorted(mine.keys() & theirs.keys())
            over = [seen for seen in both if mine[seen] > theirs[seen]]
            whole = both and mine.keys() == theirs.keys()
            at = f"more evaluations than {other.title} at {', '.join(f'{seen:,}' for seen in over) or 'no checkpoint'}"
            words = f"{OT}, seed {seed}: {at} of {len(both)}; {other.title}: {_course(other.trained[seed])}"
            found.append(doubted(Finding(not over if whole else None, words), other))
    return found


def solved(one: Trained) -> list[tuple[int, float]]:
    """(images seen, NFE) of the finest tolerance at each checkpoint."""
    tolerance = min((row["tolerance"] for row in one.solving if row.get("tolerance")), default=None)
    return sorted((row["images_seen"], row["nfe"]) for row in one.solving if row.get("tolerance") == tolerance)


def unevenness(one: Trained) -> float | None:
    """The most NFE of any checkpoint by the least; None for fewer than two."""
    counts = [count for _, count in solved(one)]
    return max(counts) / min(counts) if len(counts) > 1 else None


def _course(one: Trained) -> str:
    return f"{', '.join(number(count) for _, count in solved(one)) or 'none'} for the grid of {GRID} samples"

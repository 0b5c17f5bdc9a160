"""A claim of the paper and what decides it: findings, each of which holds, does not hold, or could not be made.

The rule for few training seeds is here: each seed alone has to show it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from fm.comparing import NOISE, Cell, paired
from fm.jackknife import half_interval
from fm.paper.methods import OT
from fm.paper.reading import BASELINES, Form, Value, better, run, values
from fm.paper.trained import Trained
from fm.results import Row, number

SHOWN, NOT_SHOWN, NOT_MEASURED = "shown", "not shown", "not measured"
ONE_SEED = "one seed says nothing of the chance in the training"
WHOLE = "the paper's own: CIFAR-10 or ImageNet at full size (`--scale full`), 50,000 samples, and several seeds"


@dataclass(frozen=True)
class Claim:
    """A claim with its verdict.

    says: the paper's claim. test: how it is decided. evidence: figures with uncertainty, every seed. needs: at what
    scale it would have to be tested; empty if it is shown.
    """

    key: str
    title: str
    says: str
    test: str
    verdict: str
    evidence: tuple[str, ...]
    needs: str


@dataclass(frozen=True)
class Finding:
    """One comparison in words; `holds` is None where it could not be made."""

    holds: bool | None
    says: str


def decided(key: str, title: str, says: str, test: str, found: Sequence[Finding], needs: str) -> Claim:
    """The claim with its verdict: one finding against it is enough; without any, all have to be there."""
    holds = [finding.holds for finding in found]
    verdict = NOT_SHOWN if False in holds else NOT_MEASURED if None in holds or not holds else SHOWN
    evidence = tuple(finding.says for finding in found)
    return Claim(key, title, says, test, verdict, evidence, "" if verdict == SHOWN else needs)


IN_EACH = "in each training seed and against each baseline in its better form"
APART = " Of two equal methods two seeds of each lie so by chance once in six, four of each once in 70."
DRAWING = " A baseline whose samples are no images decides nothing."


def paired_below(by: str, what: str = "the difference") -> str:
    """The rule of `against` in words."""
    return f"{IN_EACH}, {what}, paired by {by}, lies below zero with its whole 95 % interval."


Difference = tuple[float, float] | str  # OT minus other and half of its 95 % interval, or why there is none
Judge = Callable[[Trained, Trained], Difference]


def against_all(
    trained: Sequence[Trained], value: Value, judge: Judge, limit: float = 0.0, pictures: bool = False
) -> list[Finding]:
    """FM w/ OT against each baseline in its better form by `value`, seed by seed; see `against` and `better`."""
    ours = better(trained, OT, value, pictures)
    if ours.lacks:
        return [Finding(None, ours.lacks)]
    return [against(ours, better(trained, name, value, pictures), judge, limit) for name in BASELINES]


def against(ours: Form, other: Form, judge: Judge, limit: float = 0.0) -> Finding:
    """Whether in each seed the upper end of the paired 95 % interval of ours minus other lies below `limit`."""
    if lacks := lacking(ours, other):
        return Finding(None, lacks)
    found: dict[int, Difference] = {seed: judge(ours.trained[seed], other.trained[seed]) for seed in ours.trained}
    return doubted(differing(f"{ours.title} minus {other.title}", found, limit), other)


def doubted(found: Finding, other: Form) -> Finding:
    """A finding against a form; it speaks for no claim while another form, that may be the better one, is missing."""
    return Finding(found.holds and None, f"{found.says}; {other.doubt}") if other.doubt else found


def alone(found: Finding, ours: Form) -> Finding:
    """A finding that only the spread over seeds can judge: it decides nothing if there are fewer than two."""
    return Finding(None, f"{found.says}; {ONE_SEED}") if len(ours.trained) < 2 else found


def differing(words: str, found: Mapping[int, Difference], limit: float = 0.0) -> Finding:
    """Difference differences by training seed as one finding, with their mean and range."""
    told = [
        f"seed {seed}: {one if isinstance(one, str) else f'{one[0]:+.3g} ± {one[1]:.2g}'}"
        for seed, one in found.items()
    ]
    known = [one for one in found.values() if not isinstance(one, str)]
    holds = [one[0] + one[1] < limit for one in known]
    verdict = False if False in holds else None if len(known) < len(found) else True
    means = [one[0] for one in known]
    over = f"; mean {fmean(means):+.3g}, from {min(means):+.3g} to {max(means):+.3g}" if len(means) > 1 else ""
    if len(known) == len(found) and all(value - half > limit for value, half in known):
        over += "; the opposite, in each seed"
    return Finding(verdict, f"{words}: {', '.join(told)}{over}")


def counted(ours: Form, other: Form, value: Value, what: str) -> Finding:
    """Whether the worst seed of ours is below the best seed of the other, of a value without an interval of its own."""
    if lacks := lacking(ours, other):
        return Finding(None, lacks)
    sides = [values(form, value) for form in (ours, other)]
    told = [", ".join(f"{number(v)} (seed {seed})" for seed, v in side.items()) for side in sides]
    means = [fmean(side.values()) for side in sides]
    ratio = f"; ratio of means {means[0] / means[1]:.2f}" if means[1] else ""
    holds = max(sides[0].values()) < min(sides[1].values())
    found = Finding(holds, f"{what} {told[0]} of {ours.title} against {told[1]} of {other.title}{ratio}")
    return alone(doubted(found, other), ours)


def lacking(ours: Form, other: Form) -> str:
    """Why two forms cannot be compared in every seed of ours, or nothing."""
    missing = [seed for seed in ours.trained if seed not in other.trained]
    unpaired = f"{other.title} has no seed {missing[0]}" if missing else ""
    return ours.lacks or other.lacks or unpaired


def by_rows(name: str, cell: Callable[[Trained], Cell | None]) -> Judge:
    """Judges by fm.comparing's paired difference of a quantity in one cell: same noise or images, same features."""

    def judge(ours: Trained, other: Trained) -> Difference:
        runs, at = [run(one) for one in (other, ours)], cell(ours)
        if not runs[0] or not runs[1] or at is None or at not in runs[0].cells:
            return f"{other.method.title} was not measured alike"
        found = paired(name, at, runs[0], runs[1])
        return found.verdict if found.difference is None or found.half is None else (found.difference, found.half)

    return judge


def unlike(ours: Row, other: Row) -> bool:
    """Whether rows are of other noise, or of other samples of it, so that nothing that they share drops out."""
    return any(ours.get(key) != other.get(key) for key in (*NOISE, "solution_error_images"))


def contrast(terms: Sequence[tuple[int, Row, str]]) -> tuple[float, float]:
    """A signed sum of columns of rows, and half of its 95 % interval by leaving out the same groups of all."""
    value = sum(sign * row[name] for sign, row, name in terms)
    groups = zip(*([sign * v for v in row[f"{name}_without"]] for sign, row, name in terms), strict=True)
    return value, half_interval([sum(group) for group in groups])

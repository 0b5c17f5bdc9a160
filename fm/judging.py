"""Champion against challenger: whether a new network takes the old one's place, from the rows of both alone.

It does only if the primary metric, the first distance of a recipe, improves by more than the uncertainty of the paired
difference, and no other metric worsens by more than its own. Each metric is judged at the finest point that both were
measured at.
"""

from dataclasses import dataclass, field
from typing import Any

from fm.comparing import Cell, Paired, Run, paired, quantities, unmatched
from fm.tableaux import tableau


@dataclass(frozen=True)
class Decision:
    """Whether the challenger is accepted, in words why, and the differences that decided: challenger minus champion."""

    accepted: bool
    why: str
    primary: Paired | None = None
    others: list[Paired] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        return "accepted" if self.accepted else "refused"

    def pairs(self) -> list[Paired]:
        """The primary metric's difference first."""
        return [*([self.primary] if self.primary else []), *self.others]


FIRST = Decision(True, "there is no champion yet to be better than")


def judge(champion: Run, challenger: Run, name: str) -> Decision:
    """Decides between two runs whose cells were measured alike, on the same noise and reference.

    `name` is the column of the primary metric, such as `fd_efficientnet_lite0_b7`.
    Raises: UserError if no cell was measured alike.
    """
    both = [cell for cell in champion.cells if cell in challenger.cells]
    if not both:
        raise unmatched(champion, challenger)[0]
    rows = [row for cell in both for run in (champion, challenger) for row in run.cells[cell]]
    pairs = {one: _finest(one, both, champion, challenger) for one in [name, *quantities(rows)]}
    primary = pairs.pop(name)
    others = [pair for pair in pairs.values() if pair is not None]
    why = _against(name, primary, others, champion, challenger)
    return Decision(not why, why or f"{name} improves and nothing worsens: {in_words(primary)}", primary, others)


def _against(name: str, primary: Paired | None, others: list[Paired], champion: Run, challenger: Run) -> str:
    """Why the challenger is refused; empty if it is not."""
    if primary is None or primary.difference is None:
        return f"{name} cannot be compared: {primary.verdict if primary else 'neither has a value'}"
    if primary.better != challenger.name:
        return f"{name} does not improve by more than its uncertainty: {in_words(primary)}"
    for pair in others:
        if pair.difference is None:
            return f"{pair.quantity} cannot be compared: {pair.verdict}"
        if pair.better == champion.name:
            return f"{pair.quantity} worsens by more than its uncertainty: {in_words(pair)}"
    return ""


def _finest(name: str, both: list[Cell], champion: Run, challenger: Run) -> Paired | None:
    """The pair of the finest point at which this metric can be compared; else one that says why not, or None where
    the champion has no value of it at any point."""
    finest_first = sorted(both, key=_fineness, reverse=True)
    pairs = [paired(name, cell, champion, challenger) for cell in finest_first]
    valued = [pair for pair in pairs if any(row.get(name) is not None for row in champion.cells[pair.cell])]
    return next((pair for pair in pairs if pair.difference is not None), valued[0] if valued else None)


def _fineness(cell: Cell) -> tuple[float, ...]:
    """The order of points: adaptive ones below fixed ones, which have more samples, and those by their evaluations."""
    return bool(cell.nfe), cell.nfe or 0, tableau(cell.solver).order, -(cell.tolerance or 0)


def in_words(pair: Paired | None) -> str:
    """`fd_x 10.1 after 12.3, -2.2 ± 0.4 (midpoint 16)`."""
    if pair is None:
        return ""
    before, after = pair.values or (float("nan"), float("nan"))
    change = f", {pair.difference:+.4g} ± {pair.half:.2g}" if pair.difference is not None else ""
    return f"{pair.quantity} {after:.4g} after {before:.4g}{change} ({pair.cell})"


def numbers(decision: Decision) -> dict[str, Any]:
    """What decided, as plain values: for the registry, the page and scripts."""
    return {
        "decision": decision.verdict,
        "why": decision.why,
        "metrics": [
            {
                "metric": pair.quantity,
                "point": str(pair.cell),
                "champion": pair.values[0] if pair.values else None,
                "challenger": pair.values[1] if pair.values else None,
                "difference": pair.difference,
                "half_interval": pair.half,
                "seeds": len(pair.seeds),
                "better": pair.better,
            }
            for pair in decision.pairs()
        ],
    }

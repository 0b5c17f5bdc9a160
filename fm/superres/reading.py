"""What stands of a comparison of super-resolution, as its table, claims and figures read it. Rows are read, none is
made."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fm.paper.reading import rows_of, sampled
from fm.paper.trained import Trained
from fm.results import Row
from fm.superres.plan import REGRESSION


@dataclass(frozen=True)
class Answers:
    """What each method answers to the same small pictures of held-out images, uint8: low (n, c, s, s), truth and each
    of `by_method` (n, c, h, w), the first noise's; `varied` (seeds, n, c, h, w) flow matching's from several, if it
    was trained."""

    low: Tensor
    truth: Tensor
    by_method: dict[str, Tensor]
    varied: Tensor | None


def final(one: Trained) -> Row | None:
    """The row that a training is judged by: dopri5 at the finest tolerance, of regression its one step; of several
    seeds of the evaluation the first."""
    found = rows_of(one, sampled(one))
    if one.method.name == REGRESSION:
        found = [row for row in one.rows if "failed" not in row]
    return found[0] if found else None


def of_method(trained: Sequence[Trained], name: str) -> dict[int, Row]:
    """The judged row of each training seed of a method, of those that have one."""
    found = {one.seed: final(one) for one in trained if one.method.name == name}
    return {seed: row for seed, row in found.items() if row is not None}

"""What stands of one training of the comparison, as tables, figures and claims read it."""

from dataclasses import dataclass
from typing import Any

from fm.paper.methods import Method
from fm.results import Row


@dataclass(frozen=True)
class Trained:
    """What stands of one training: rows of the network that came out, distances along the way, and its records.

    along: rows of one point of the solver grid at every kept checkpoint, the last included, by images seen.
    records: the reports of the training (`loss`, `loss_t0` to `loss_t9`, `grad_norm`, by `images_seen`).
    solving: what drawing a grid by dopri5 took at each checkpoint (`nfe`, `images_seen`).
    trained_by: the versions of the code that trained it.
    failed: why there is nothing of it, or not all.
    """

    method: Method
    seed: int
    where: str
    rows: tuple[Row, ...] = ()
    along: tuple[Row, ...] = ()
    records: tuple[dict[str, Any], ...] = ()
    solving: tuple[dict[str, Any], ...] = ()
    trained_by: tuple[str, ...] = ()
    failed: str = ""

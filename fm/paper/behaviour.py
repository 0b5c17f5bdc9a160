"""Claims on how training and sampling go: the spread of gradients and losses, and the ways of samples."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean, pstdev

from fm.paper.claim import WHOLE, Claim, Finding, Judge, Paired, against_all, counted, decided
from fm.paper.methods import DIFFUSION, OT
from fm.paper.quality import IN_EACH
from fm.paper.reading import Value, better
from fm.paper.trained import Trained
from fm.results import Row

TENTHS = 10
SCORES = ("Score Matching", "ScoreFlow")


def stable(trained: Sequence[Trained]) -> Claim:
    """Section 6.1: training with flow matching is more stable than with score matching."""
    kinds: tuple[tuple[str, Value], ...] = (
        ("spread of the gradient norm", gradients),
        ("spread of the loss by t", losses),
    )
    return decided(
        "stability",
        "Stable training",
        "Training by flow matching is more stable than by score matching.",
        "Standard deviation by mean over the reports of the last three quarters of the training, of the gradient norm"
        " and of the loss in each tenth of t (averaged over the tenths): the worst seed of each FM method is below the"
        " best seed of Score Matching and of ScoreFlow in their better forms.",
        [
            counted(better(trained, ours, value), better(trained, other, value), value, what)
            for what, value in kinds
            for ours in (OT, DIFFUSION)
            for other in SCORES
        ],
        "the paper's network and number of steps, with a report at least every thousand steps",
    )


def settled(one: Trained) -> list[Row]:
    """The reports of the last three quarters of a training, by images seen."""
    last = max((record["images_seen"] for record in one.records), default=0)
    return [record for record in one.records if record["images_seen"] > last / 4]


def gradients(one: Trained) -> float | None:
    """The relative spread of the gradient norm."""
    return _spread([record["grad_norm"] for record in settled(one) if record.get("grad_norm") is not None])


def losses(one: Trained) -> float | None:
    """The relative spread of the loss in a tenth of t, averaged over the tenths."""
    known = [spread for spread in by_tenth(one) if spread is not None]
    return fmean(known) if known else None


def by_tenth(one: Trained) -> list[float | None]:
    """The relative spread of the loss over the reports, for each tenth of t."""
    found = ([record.get(f"loss_t{tenth}") for record in settled(one)] for tenth in range(TENTHS))
    return [_spread([loss for loss in column if loss is not None]) for column in found]


def _spread(values: Sequence[float]) -> float | None:
    """Standard deviation by mean; None for fewer than two values."""
    return pstdev(values) / abs(fmean(values)) if len(values) > 1 and fmean(values) else None


def early(trained: Sequence[Trained]) -> Claim:
    """Figure 6: when the image shows."""
    return _way(
        trained,
        "appears",
        "Images appear early",
        "Along FM w/ OT's trajectories the image shows early, along diffusion's only near the end.",
        "The time t from which on a state correlates with its image by 0.9",
        ("appears",),
    )


def straight(trained: Sequence[Trained]) -> Claim:
    """Figures 2 and 3: straight lines."""
    return _way(
        trained,
        "straight",
        "Straight trajectories",
        "FM w/ OT's trajectories are straighter than diffusion's.",
        "The bend (0 for a straight line at constant speed) and the detour (length by distance of the ends)",
        ("bend", "detour"),
    )


def onward(trained: Sequence[Trained]) -> Claim:
    """Section 4.1: diffusion's trajectories overshoot and turn back."""
    return _way(
        trained,
        "backtracking",
        "No turning back",
        "FM w/ OT's trajectories turn back less than diffusion's.",
        "All increases of the distance to the end, by that distance at t = 0",
        ("backtracking",),
    )


def _way(trained: Sequence[Trained], key: str, title: str, says: str, what: str, names: Sequence[str]) -> Claim:
    """A claim on columns `way_...`: all baselines take the diffusion path."""
    found = [
        Finding(one.holds, f"{name}, {one.says}")
        for name in names
        for one in against_all(trained, way(name), _ways(name))
    ]
    test = (
        f"{what}, of converged solutions: {IN_EACH}, OT's mean is lower by more than the 95 % interval of the"
        " difference, standard errors over samples taken as independent."
    )
    return decided(key, title, says, test, found, WHOLE)


def way(name: str) -> Callable[[Trained], float | None]:
    """The mean of `way_<name>` over samples: the same in all rows that have it, being of converged solutions."""
    return lambda one: _columns(one, name)[0]


def _columns(one: Trained, name: str) -> tuple[float | None, float]:
    """The mean of the row of the most samples, and its standard error."""
    rows = [row for row in one.rows if row.get(f"way_{name}") is not None and row.get(f"way_{name}_stderr") is not None]
    row = max(rows, key=lambda row: row.get("solution_error_images", 0), default={})
    return row.get(f"way_{name}"), row.get(f"way_{name}_stderr", math.nan)


def way_half(one: Trained, name: str) -> float:
    """Half of the 95 % interval of `way_<name>`; nan where it was not measured."""
    return 1.96 * _columns(one, name)[1]


def _ways(name: str) -> Judge:
    def judge(ours: Trained, other: Trained) -> Paired:
        values = [way(name)(one) or 0.0 for one in (ours, other)]
        return values[0] - values[1], math.hypot(way_half(ours, name), way_half(other, name))

    return judge

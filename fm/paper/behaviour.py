"""Claims on how training and sampling go: the spread of gradients and losses, and the ways of samples."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, pstdev

import torch

from fm.paper.claim import (
    APART,
    WHOLE,
    Claim,
    Difference,
    Finding,
    Judge,
    against_all,
    contrast,
    counted,
    decided,
    paired_below,
    unlike,
)
from fm.paper.methods import DIFFUSION, OT
from fm.paper.reading import CONVERGED, OfSolutions, Value, better
from fm.paper.trained import Trained
from fm.paths import OTPath, Path, VEPath, VPPath
from fm.results import Row
from fm.ways import ALIKE, TIMES, described

TENTHS = 10
DATA_SD = 0.5  # of pictures' values, about: for what a perfect model would show
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
        "The spread from report to report over the last three quarters of the training, of the gradient norm and of"
        " the loss in each tenth of t (averaged over the tenths): the standard deviation of the differences of"
        " neighbouring reports by the square root of 2 and by the mean, so that the trend of a network that still"
        " learns does not count. The worst seed of each FM method is below the best seed of Score Matching and of"
        " ScoreFlow in their better forms. The gradient norm is that of the one step of each report, before clipping."
        f" DDPM stands in no line of its own: Score Matching (scaled) is its training.{APART}",
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
    """Standard deviation by mean of values without their trend, from neighbours; None for fewer than three values."""
    steps = [after - before for before, after in pairwise(values)]
    return pstdev(steps) / math.sqrt(2) / abs(fmean(values)) if len(steps) > 1 and fmean(values) else None


def early(trained: Sequence[Trained]) -> Claim:
    """Figure 6: when the image shows. Times are told of all; FM w/ VE's, an extra row, decide nothing."""
    known = ((one, way("appears")(one)) for one in trained)
    times = [(one, found) for one, found in known if found is not None]
    return _way(
        trained,
        "appears",
        "Images appear early",
        "Along FM w/ OT's trajectories the image shows earlier than along those of the diffusion (VP) path.",
        f"The time t from which on a state correlates with its image by {ALIKE}",
        ("appears",),
        "Most of this is the path's schedule, whatever the network: the times for independent ends stand beside it.",
        f"beside it, a_t x_1 + sigma_t z with independent ends (data of s.d. {DATA_SD}) reaches it at"
        f" t = {independent(OTPath()):.2f} on the OT path, {independent(VPPath()):.2f} on the VP path and"
        f" {independent(VEPath()):.2f} on the VE path"
        + "".join(f"; {one.method.title}, seed {one.seed}, does at {found:.2f}" for one, found in times),
    )


def independent(path: Path) -> float:
    """The time from which on a_t x_1 + sigma_t z correlates with x_1 by `ALIKE`, for x_1 of s.d. `DATA_SD`."""
    times = torch.linspace(0, path.t_max, 10_001, dtype=torch.float64)
    at = path.schedule(times)
    alike = at.a * DATA_SD / torch.hypot(at.a * DATA_SD, at.sigma)
    return float(times[alike >= ALIKE].min())


def straight(trained: Sequence[Trained]) -> Claim:
    """Figures 2 and 3: straight lines."""
    return _way(
        trained,
        "straight",
        "Straight trajectories",
        "FM w/ OT's trajectories are straighter than diffusion's.",
        "The bend (0 for a straight line at constant speed) and the detour (length by distance of the ends)",
        ("bend", "detour"),
        _if_perfect("bend", "detour"),
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
        _if_perfect("backtracking"),
    )


def of_gaussian(path: Path) -> dict[str, float]:
    """`described` of the exact solution where data are Gaussian of s.d. `DATA_SD`: each state is its noise, scaled."""
    at = path.schedule(torch.tensor(TIMES, dtype=torch.float64).clamp(max=path.t_max))
    spread = torch.hypot(at.a * DATA_SD, at.sigma)
    states = spread[:, None, None] * torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    return {name: float(value) for name, value in described(states).items()}


def _if_perfect(*names: str) -> str:
    """That the claim may be false of a perfect model, with its figures."""
    ot, vp, ve = (of_gaussian(path) for path in (OTPath(), VPPath(), VEPath()))
    told = [
        f"the exact {name} is {ot[name]:.2f} for OT, {vp[name]:.2f} for VP and {ve[name]:.2f} for VE" for name in names
    ]
    return f"It may be false of a perfect model: of Gaussian data of s.d. {DATA_SD} {' and '.join(told)}."


def _way(
    trained: Sequence[Trained],
    key: str,
    title: str,
    says: str,
    what: str,
    names: Sequence[str],
    limits: str,
    beside: str = "",
) -> Claim:
    """A claim on columns `way_...`: all baselines take the diffusion path."""
    found = [
        Finding(one.holds, f"{name}, {one.says}")
        for name in names
        for one in against_all(trained, way(name), _ways(name))
    ]
    found += [Finding(True, beside)] * bool(beside)
    test = f"{what}: {paired_below('noise')}{CONVERGED} {limits}"
    needs = f"{WHOLE}; of a network that is too stiff to solve, another training"
    return decided(key, title, says, test, found, needs)


def way(name: str) -> Value:
    """The mean of `way_<name>` over samples: the same in all rows that have it, being of converged solutions."""
    return OfSolutions(lambda one: _row(one, name).get(f"way_{name}"))


def _row(one: Trained, name: str) -> Row:
    """The row of the most samples that has `way_<name>`."""
    rows = [row for row in one.rows if row.get(f"way_{name}") is not None]
    return max(rows, key=lambda row: row.get("solution_error_images", 0), default={})


def way_half(one: Trained, name: str) -> float:
    """Half of the 95 % interval of `way_<name>`; nan where it was not measured."""
    stderr = _row(one, name).get(f"way_{name}_stderr")
    return math.nan if stderr is None else 1.96 * stderr


def _ways(name: str) -> Judge:
    column = f"way_{name}"

    def judge(ours: Trained, other: Trained) -> Difference:
        rows = [_row(one, name) for one in (ours, other)]
        if not all(row.get(f"{column}_without") for row in rows):
            return f"its rows lack {column}_without, by which samples are paired"
        if unlike(*rows):
            return "of other noise or samples"
        return contrast([(1, rows[0], column), (-1, rows[1], column)])

    return judge

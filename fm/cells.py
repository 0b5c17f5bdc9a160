"""What is measured on a trained network, and the cells it falls into: a solver, its budget, a seed.

A cell is complete: with the weights, the data and the code it decides every digit of its Row.
"""

import json
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fm.errors import SettingsError, member
from fm.metrics import DISTANCES, FEATURES
from fm.objectives import Objective
from fm.optimised import MOST, OPTIMISED, laid_out
from fm.results import Row, grid_text, guidance_text
from fm.settings import Settings
from fm.solvers import GRIDS, grid_for, steps
from fm.tableaux import SOLVERS, tableau

SEEDS = 100  # at most


class Budget(Settings):
    """One point of the solver grid: a fixed-step solver with its evaluations, or dopri5 with its tolerance."""

    solver: str = Field(
        title="Solver",
        description=f"How the ODE is solved: {', '.join(sorted(SOLVERS))}.",
        json_schema_extra={"enum": [*sorted(SOLVERS)]},
    )
    nfe: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        title="NFE",
        description="Network evaluations a sample, for fixed steps: 1 to 10,000.",
    )
    tolerance: float | None = Field(
        default=None, ge=1e-9, le=1.0, title="Tolerance", description="rtol = atol of an adaptive solver: 1e-9 to 1."
    )
    control: Literal["joint", "per_sample"] | None = Field(
        default=None,
        title="Step control",
        description="Of an adaptive solver. joint, or none: a batch shares its steps, as in the paper; per_sample: no.",
    )
    grid: Literal["uniform", "edm", "log_snr", "optimised"] | None = Field(
        default=None,
        title="Time grid",
        description="Where fixed steps lie; none: the solver's own. optimised: where they err least, chosen for the "
        "network.",
    )
    guidance: float | None = Field(
        default=None,
        gt=0,
        le=100,
        title="Guidance",
        description="Strength g of v_weak + (1 + g)(v - v_weak), above 0 to 100; none: no guidance.",
    )
    interval: tuple[float, float] | None = Field(
        default=None, title="Guidance interval", description="Guides only between these two times of 0 to 1."
    )
    samples: int | None = Field(
        default=None, ge=20, le=1_000_000, title="Samples", description="Samples of this point alone: 20 to 1,000,000."
    )
    nll_images: int | None = Field(
        default=None,
        ge=0,
        le=100_000,
        title="NLL images",
        description="Held-out images for bits/dim of this point alone: 0 to 100,000.",
    )


class Evaluation(Settings):
    """What is measured on a trained network."""

    grid: tuple[Budget, ...] = Field(
        min_length=1, title="Solver grid", description="The solvers and budgets to compare."
    )
    guide: str | None = Field(
        default=None,
        title="Guide",
        description="RUN of a weaker network of the same kind, which guided points lead away from (autoguidance); "
        "none: from the network without label.",
    )
    samples: int = Field(ge=20, le=1_000_000, title="Samples", description="Samples for each point: 20 to 1,000,000.")
    batch: int = Field(
        ge=1,
        le=4096,
        title="Batch",
        description="Samples solved together: 1 to 4,096. dopri5 shares its steps within it.",
    )
    seed: int = Field(ge=0, le=2**31 - 1, title="Seed", description="Of the initial noise: 0 to 2,147,483,647.")
    seeds: int = Field(
        default=1,
        ge=1,
        le=SEEDS,
        title="Seeds",
        description=f"Measures every point with seed, seed + 1, ...: so many times, 1 to {SEEDS}.",
    )
    sampling_precision: Literal["fp32", "tf32"] = Field(
        default="fp32",
        title="Precision",
        description="Of drawing samples on a GPU: fp32 as written, or tf32, faster, factors rounded to 11 bits. "
        "Features and bits/dim are always fp32.",
    )
    nonfinite: Literal["refuse", "drop"] = Field(
        default="refuse",
        title="Samples that are not finite",
        description="refuse: a point with one has no distance; drop: they are left out and counted.",
    )
    features: str = Field(
        title="Features",
        description=f"The network that describes a picture: {', '.join(sorted(FEATURES))}.",
        json_schema_extra={"enum": [*sorted(FEATURES)]},
    )
    distances: tuple[str, ...] = Field(
        min_length=1, title="Distances", description=f"Distances on these features: {', '.join(sorted(DISTANCES))}."
    )
    reference_images: int = Field(
        ge=20,
        le=10_000_000,
        title="Reference images",
        description="Real images compared with, at most: 20 to 10,000,000.",
    )
    reference_split: Literal["heldout", "training"] = Field(
        default="heldout",
        title="Reference",
        description="Samples are compared with held-out images, or with training images, as published FID does; the "
        "floor is of the others.",
    )
    nll_images: int = Field(
        ge=0, le=100_000, title="NLL images", description="Held-out images for bits/dim: 0 (not measured) to 100,000."
    )
    nll_k: int = Field(
        ge=1, le=1000, title="NLL draws", description="Dequantisation draws an image, K in the paper: 1 to 1,000."
    )
    nll_probe: Literal["per_image", "both"] = Field(
        default="per_image",
        title="NLL probe",
        description="per_image: one Hutchinson probe an image; both: beside it the value with a probe for each draw, "
        "which comes out lower by luck.",
    )
    nll_training_images: int = Field(
        default=0,
        ge=0,
        le=100_000,
        title="NLL training images",
        description="Training images for bits/dim, whose distance to the held-out ones is the generalisation gap: "
        "0 (not measured) to 100,000.",
    )
    error_images: int = Field(
        default=0,
        ge=0,
        le=10_000,
        title="Error images",
        description="Samples whose numerical error is measured against a converged solution from the same noise, and "
        "whose ways there are described: 0 (not measured) to 10,000.",
    )
    along: Budget | None = Field(
        default=None,
        title="Along the training",
        description="A point that is measured on every kept checkpoint too, its distances alone; none: only at the "
        "end. `training.keep_every_images` keeps them.",
    )


class Cell(Settings):
    """One measurement, complete: the budget and everything else that its numbers depend on besides weights and data."""

    solver: str
    nfe: int | None = None
    tolerance: float | None = None
    control: str = "joint"
    grid: str = ""  # the solver's own
    guidance: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)
    guide: str = ""  # SHA-256 of the weights that it leads away from; empty: the network without label
    samples: int = 500
    batch: int = 64
    seed: int = 0
    sampling_precision: str = "fp32"
    nonfinite: str = "refuse"
    distances: tuple[str, ...] = ("fd",)
    nll_k: int = 1
    nll_images: int = 50
    nll_probe: str = "per_image"
    nll_training_images: int = 0
    error_images: int = 0
    reference_images: int = 1000
    reference_split: str = "heldout"

    def options(self, finer: bool = False) -> dict[str, Any]:
        """The solver's arguments, or those of the finer solution it is compared with."""
        if self.tolerance is None:
            return {
                "method": self.solver,
                "nfe": self.nfe and self.nfe * (2 if finer else 1),
                "grid": self.grid or None,
            }
        tolerance = self.tolerance / 10 if finer else self.tolerance
        return {"method": self.solver, "rtol": tolerance, "atol": tolerance, "control": self.control}

    def __str__(self) -> str:
        guided = guidance_text(self.guidance, self.interval, self.guide)
        if self.tolerance is None:
            return f"{self.solver} {self.nfe}{grid_text(self.grid)}{guided}"
        return f"{self.solver} {self.tolerance:g}" + (" per sample" if self.control == "per_sample" else "") + guided


OWN = {*Budget.model_fields, "nll_training_images", "guide", "error_images"}  # what a point decides for itself
SHARED = tuple(name for name in Cell.model_fields if name not in OWN)


def cells(settings: Evaluation) -> list[Cell]:
    """The cells of an evaluation, in the order of its grid, each with all its seeds.

    Raises: SettingsError for an unknown solver or distance, and for a budget that does not fit its solver.
    """
    for name in settings.distances:
        member(name, DISTANCES, "distance", where="evaluation.distances")
    member(settings.features, FEATURES, "features", where="evaluation.features")
    found = [_cell(budget, settings, where=f"evaluation.grid.{i}") for i, budget in enumerate(settings.grid)]
    along(settings)
    # The solver's own error is measured on one seed: it hardly depends on which.
    own = [{"seed": settings.seed + more} | ({"error_images": 0} if more else {}) for more in range(settings.seeds)]
    return [cell.model_copy(update=update) for cell in found for update in own]


def check_guidance(settings: Evaluation, class_conditional: bool, label_drop: float) -> None:
    """Raises: SettingsError for guided points of a network that has nothing to be led away from."""
    guided = any(budget.guidance for budget in (*settings.grid, *filter(None, [settings.along])))
    if settings.guide and not guided:
        raise SettingsError("guides no point of the grid", "evaluation.guide", "set guidance in a point of it")
    if not guided or settings.guide:
        return
    if not class_conditional:
        what = "guidance leads away from the network without label, and this one has no labels"
        raise SettingsError(what, "evaluation.grid", "name a weaker network: evaluation.guide=RUN")
    if not label_drop:
        what = "guidance leads away from the network without label, which was never trained (training.label_drop is 0)"
        raise SettingsError(what, "evaluation.grid", "train with training.label_drop=0.1, or set evaluation.guide=RUN")


def check_guided_budgets(settings: Evaluation, target: Objective) -> None:
    """Raises: SettingsError that names all guided points whose evaluations no whole number of steps makes, each with
    the nearest that can be made: a guided evaluation takes two calls of a network."""
    refused = []
    for budget in (*settings.grid, *filter(None, [settings.along])):
        if not budget.guidance or budget.nfe is None:
            continue
        velocity = target.velocity(_not_asked, None, None, budget.guidance, budget.interval or (0.0, 1.0), _not_asked)
        layout = partial(GRIDS[budget.grid or tableau(budget.solver).grid], target.path, 0.0, target.path.t_max)
        try:
            grid_for(budget.solver, budget.nfe, velocity, torch.float32, layout)
        except SettingsError as error:
            refused.append(f"{budget.solver} {budget.nfe} ({error.mend})")
    if refused:
        what = f"a guided evaluation takes two network calls, and no whole steps make {', '.join(refused)}"
        raise SettingsError(what, "evaluation.grid", "choose another NFE for them")


def _not_asked(*_: Any) -> Tensor:
    raise AssertionError("calls are counted, and not made")


def check_jumps(settings: Evaluation, jumps: bool) -> None:
    """Raises: SettingsError for points of the solver `jump` where the network predicts no mean velocities."""
    jumping = [budget for budget in (*settings.grid, *filter(None, [settings.along])) if budget.solver == "jump"]
    if jumping and not jumps:
        mend = "train with objective=mean_flow or objective=shortcut, or choose another solver"
        raise SettingsError("jump takes a network that predicts mean velocities", "evaluation.grid", mend)
    if any(budget.guidance for budget in jumping):
        raise SettingsError("a jump is not guided", "evaluation.grid", "leave guidance out, or choose another solver")


def along(settings: Evaluation) -> Cell | None:
    """The cell that is measured on every kept checkpoint, its distances alone; none if there is no such point."""
    if settings.along is None:
        return None
    cell = _cell(settings.along, settings, where="evaluation.along")
    return cell.model_copy(update={"nll_images": 0, "nll_training_images": 0, "error_images": 0})


def in_grid(point: Cell, grid: list[Cell]) -> bool:
    """Whether the grid's cells measure the point along a training at its end."""
    return any((str(cell), cell.samples) == (str(point), point.samples) for cell in grid)


def _cell(budget: Budget, settings: Evaluation, where: str) -> Cell:
    adaptive = bool(tableau(budget.solver, where).error)
    if adaptive != (budget.nfe is None) or adaptive != (budget.tolerance is not None):
        due = "a tolerance and no nfe" if adaptive else "an nfe and no tolerance"
        raise SettingsError(f"{budget.solver} takes {due}", where=where)
    if not adaptive:
        _check_steps(budget, where)
        if budget.grid:
            _check_grid(budget, where)
        if budget.control:
            raise SettingsError(f"{budget.solver} has fixed steps and no control of them", where=f"{where}.control")
    elif budget.grid:
        raise SettingsError(f"{budget.solver} chooses its own steps", f"{where}.grid", "leave grid out")
    if budget.interval and not budget.guidance:
        raise SettingsError("there is no guidance in this interval", f"{where}.interval", "set guidance too")
    if budget.interval and not 0 <= budget.interval[0] < budget.interval[1] <= 1:
        raise SettingsError(f"{budget.interval} is no part of the times 0 to 1", f"{where}.interval")
    # Guided, the flow is of no network that was trained: it has no likelihood, and no converged solutions to share.
    guided = bool(budget.guidance)
    scored = 0 if guided else settings.nll_images if budget.nll_images is None else budget.nll_images
    return Cell(
        solver=budget.solver,
        nfe=budget.nfe,
        tolerance=budget.tolerance,
        control=budget.control or "joint",
        grid=budget.grid or "",
        guidance=budget.guidance or 0.0,
        interval=budget.interval or (0.0, 1.0),
        error_images=0 if guided else settings.error_images,
        samples=budget.samples or settings.samples,
        nll_images=scored,
        nll_training_images=settings.nll_training_images if scored else 0,
        **{name: getattr(settings, name) for name in SHARED},
    )


def _check_grid(budget: Budget, where: str) -> None:
    """Raises: SettingsError for a grid that cannot be chosen for the solver or with guidance."""
    if budget.grid != OPTIMISED:
        return
    if budget.solver not in laid_out():
        raise SettingsError(f"is not chosen for {budget.solver}", f"{where}.grid", f"known: {', '.join(laid_out())}")
    if (count := steps(budget.solver, budget.nfe)) > MOST:
        what = f"is chosen for up to {MOST} steps, and {budget.solver} {budget.nfe} makes {count}"
        raise SettingsError(what, f"{where}.grid", "choose uniform, or a smaller NFE")
    if budget.guidance:
        raise SettingsError("is chosen for the network without guidance", f"{where}.grid", "choose uniform")


def _check_steps(budget: Budget, where: str) -> None:
    try:
        steps(budget.solver, budget.nfe)
    except SettingsError as error:
        raise SettingsError(error.what, where, error.mend) from None


def tightest(settings: Evaluation) -> Cell:
    """dopri5 at the finest tolerance of the grid, or at 1e-3: what is drawn with while a network is trained."""
    tolerances = [budget.tolerance for budget in settings.grid if budget.tolerance is not None]
    return Cell(solver="dopri5", tolerance=min(tolerances, default=1e-3))


def cell_of(row: Row) -> Cell:
    """The cell that a row was measured by."""
    return Cell(**json.loads(row["cell"]))

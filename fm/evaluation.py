"""One cell of an evaluation: a flow, a solver and its budget -> one Row with value, uncertainty, floor and lineage.

What is measured is decided here; where cells run, and how often a failed one is tried again, is not.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fm.errors import NumericalError, SettingsError, ValueUserError, member
from fm.files import atomic
from fm.flow import Drawn, Flow
from fm.likelihood import Likelihood
from fm.lineage import code_digest, digest
from fm.metrics import DISTANCES, FEATURES, Estimate, Features, estimate
from fm.noise import uniforms
from fm.pixels import to_pixels
from fm.plugins import named
from fm.results import Row
from fm.settings import Settings
from fm.solvers import steps
from fm.tableaux import SOLVERS, tableau

FEWEST = 20  # held-out images that a network can be judged by
CONVERGED = 0.01  # bits/dim: a likelihood counts only if twice the steps (or a tenth of the tolerance) move less


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
    samples: int | None = Field(
        default=None, ge=20, le=1_000_000, title="Samples", description="Samples of this point alone: 20 to 1,000,000."
    )


class Evaluation(Settings):
    """What is measured on a trained network."""

    grid: tuple[Budget, ...] = Field(
        min_length=1, title="Solver grid", description="The solvers and budgets to compare."
    )
    samples: int = Field(ge=20, le=1_000_000, title="Samples", description="Samples for each point: 20 to 1,000,000.")
    batch: int = Field(
        ge=1,
        le=4096,
        title="Batch",
        description="Samples solved together: 1 to 4,096. dopri5 shares its steps within it.",
    )
    seed: int = Field(ge=0, le=2**31 - 1, title="Seed", description="Of the initial noise: 0 to 2,147,483,647.")
    features: str = Field(
        title="Features",
        description=f"The network that describes a picture: {', '.join(sorted(FEATURES))}.",
        json_schema_extra={"enum": [*sorted(FEATURES)]},
    )
    distances: tuple[str, ...] = Field(
        title="Distances", description=f"Distances on these features: {', '.join(sorted(DISTANCES))}."
    )
    reference_images: int = Field(
        ge=20, le=10_000_000, title="Reference images", description="Held-out images, at most: 20 to 10,000,000."
    )
    nll_images: int = Field(
        ge=0, le=100_000, title="NLL images", description="Held-out images for bits/dim: 0 (not measured) to 100,000."
    )
    nll_k: int = Field(
        ge=1, le=1000, title="NLL draws", description="Dequantisation draws an image, K in the paper: 1 to 1,000."
    )


class Cell(Settings):
    """One measurement, complete: the budget and everything else that its numbers depend on besides weights and data."""

    solver: str
    nfe: int | None = None
    tolerance: float | None = None
    samples: int = 500
    batch: int = 64
    seed: int = 0
    distances: tuple[str, ...] = ("fd",)
    nll_k: int = 1
    nll_images: int = 50
    reference_images: int = 1000

    def options(self, finer: bool = False) -> dict[str, Any]:
        """The solver's arguments, or those of the finer solution it is compared with."""
        if self.tolerance is None:
            return {"method": self.solver, "nfe": self.nfe and self.nfe * (2 if finer else 1)}
        tolerance = self.tolerance / 10 if finer else self.tolerance
        return {"method": self.solver, "rtol": tolerance, "atol": tolerance}

    def __str__(self) -> str:
        return f"{self.solver} {self.nfe if self.tolerance is None else format(self.tolerance, 'g')}"


def cells(settings: Evaluation) -> list[Cell]:
    """The cells of an evaluation, in the order of its grid.

    Raises: SettingsError for an unknown solver or distance, and for a budget that does not fit its solver.
    """
    for name in settings.distances:
        member(name, DISTANCES, "distance", where="evaluation.distances")
    member(settings.features, FEATURES, "features", where="evaluation.features")
    return [_cell(budget, settings, where=f"evaluation.grid.{i}") for i, budget in enumerate(settings.grid)]


def _cell(budget: Budget, settings: Evaluation, where: str) -> Cell:
    adaptive = bool(tableau(budget.solver, where).error)
    if adaptive != (budget.nfe is None) or adaptive != (budget.tolerance is not None):
        due = "a tolerance and no nfe" if adaptive else "an nfe and no tolerance"
        raise SettingsError(f"{budget.solver} takes {due}", where=where)
    if not adaptive:
        _check_steps(budget, where)
    return Cell(
        solver=budget.solver,
        nfe=budget.nfe,
        tolerance=budget.tolerance,
        samples=budget.samples or settings.samples,
        batch=settings.batch,
        seed=settings.seed,
        distances=settings.distances,
        nll_k=settings.nll_k,
        nll_images=settings.nll_images,
        reference_images=settings.reference_images,
    )


def _check_steps(budget: Budget, where: str) -> None:
    try:
        steps(budget.solver, budget.nfe)
    except SettingsError as error:
        raise SettingsError(error.what, where, error.mend) from None


class Images(Protocol):
    """What is asked of a data set (`fm.data.ShardedImages`)."""

    digest: str

    @property
    def labels(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def gather(self, indices: Any) -> np.ndarray:
        """uint8 (n, height, width, channels)."""


@dataclass(frozen=True)
class Reference:
    """What samples are compared with: features of held-out and of training images, and images for bits/dim.

    heldout (n, d) and training (m, d) float32; labels (n,) of the held-out images (-1: none); images uint8 (k, c, h, w)
    are the first k of them. `data` and `features_weights` say what it was made from.
    """

    heldout: Tensor
    training: Tensor
    labels: Tensor
    images: Tensor
    data: str
    features: str
    features_weights: str

    def floor(self, distance: str, cell: Cell) -> float | None:
        """The distance of as many training images as the cell has samples: what real pictures would get.

        None if there are fewer, for a distance depends on the count.
        """
        if cell.samples > len(self.training):
            return None
        return DISTANCES[distance](self.training[: cell.samples], self.heldout[: cell.reference_images])

    def save(self, file: Path) -> None:
        from safetensors.torch import save

        tensors = {k: v.contiguous() for k, v in vars(self).items() if isinstance(v, Tensor)}
        words = {k: v for k, v in vars(self).items() if isinstance(v, str)}
        with atomic(file) as out:
            out.write(save(tensors, words))

    @classmethod
    def load(cls, file: Path) -> Self:
        from safetensors import safe_open

        with safe_open(file, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dict
            return cls(**tensors, **stored.metadata())


def measure_reference(
    training: Images, heldout: Images, features: Features, settings: Evaluation, folder: Path | None = None
) -> Reference:
    """The reference of a data set, from `folder` if it was measured before (same data, features, counts).

    Raises: ValueUserError if there are fewer than 20 held-out images.
    """
    if len(heldout) < FEWEST:
        raise ValueUserError(
            f"{len(heldout)} held-out images are too few to judge by", mend=f"hold out at least {FEWEST}"
        )
    count = max([settings.samples, *(cell.samples for cell in cells(settings))])
    key = digest(
        training.digest, features.name, features.weights, count, settings.reference_images, settings.nll_images
    )
    file = folder / f"reference-{key}.safetensors" if folder else None
    if file and file.exists():
        return Reference.load(file)
    images, labels = _read(heldout, settings.reference_images)
    reference = Reference(
        heldout=features(images),
        training=features(_read(training, count)[0]),
        labels=labels,
        images=images[: settings.nll_images],
        data=training.digest,
        features=features.name,
        features_weights=features.weights,
    )
    if file:
        reference.save(file)
    return reference


def _read(dataset: Images, most: int) -> tuple[Tensor, Tensor]:
    """At most that many images (n, c, h, w) and labels, in a fixed random order: its beginning is a fair sample."""
    order = uniforms(0, "reference", torch.arange(len(dataset)), ()).argsort(stable=True)[:most]
    images = torch.from_numpy(dataset.gather(order)).permute(0, 3, 1, 2).contiguous()
    return images, torch.as_tensor(dataset.labels)[order]


def row_key(weights: str, cell: Cell, features: str, data: str, plugins: str = "") -> str:
    """Identifies a measurement before it is made: hashes of weights, features and data, cell, code and library.

    `plugins` are the import paths that the network was trained with, as in `Recipe.plugins`.
    """
    return digest(weights, data, cell, features, _code(cell, plugins), torch.__version__)


def _code(cell: Cell, plugins: str) -> str:
    """The code that a cell's numbers come from: this project's, and that of the plug-ins."""
    return code_digest(*sorted({name for name in [*plugins.split(", "), cell.solver] if named(name)}))


def evaluate(flow: Flow, cell: Cell, features: Features, reference: Reference) -> Row:
    """Draws the cell's samples, measures their distance, and the held-out images' bits/dim by the same solver.

    Raises: SettingsError if flow, features and reference do not belong together; NumericalError for non-finite samples.
    """
    _check(flow, features, reference)
    drawn, seconds = _timed(lambda: _draw(flow, cell, reference))
    weights, plugins = str(flow.lineage.get("weights")), flow.lineage.get("plugins", "")
    return {
        "key": row_key(weights, cell, reference.features_weights, reference.data, plugins),
        "method": flow.lineage.get("method", flow.method),
        "path": flow.path.kind,
        "solver": cell.solver,
        "nfe": drawn.nfe,
        "nfe_mean": drawn.nfe_mean,
        "tolerance": cell.tolerance,
        "samples": cell.samples,
        "seed": cell.seed,
        "seconds": round(seconds, 3),
        **_distances(features(to_pixels(drawn.x)), cell, reference),
        **_likelihood(flow, cell, reference),
        **{name: value for name, value in flow.lineage.items() if name != "method"},
        "data": reference.data,
        "features": features.name,
        "features_weights": features.weights,
        "features_preprocessing": features.preprocessing,
        "features_dimensions": reference.heldout.shape[1],
        "reference_images": min(cell.reference_images, len(reference.heldout)),
        "batch": cell.batch,
        "grid": tableau(cell.solver).grid if cell.tolerance is None else "adaptive, joint within the batch",
        "noise": "sample i: position i of stream 'sample'",
        "labels": "none" if flow.classes is None else "as frequent as in the held-out images",
        "code": _code(cell, plugins),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": flow.device.type,
    }


def _check(flow: Flow, features: Features, reference: Reference) -> None:
    if (features.name, features.weights) != (reference.features, reference.features_weights):
        raise SettingsError(f"the reference was measured with {reference.features}, not {features.name} of this file")
    if (data := flow.lineage.get("data", reference.data)) != reference.data:
        raise SettingsError(
            f"the network was trained on data set {data}, the reference is of {reference.data}",
            mend="evaluate on the data it was trained on",
        )
    if len(reference.images) and tuple(reference.images.shape[1:]) != tuple(flow.shape):
        raise SettingsError(
            f"the network draws {tuple(flow.shape)}, the reference images are {tuple(reference.images.shape[1:])}"
        )


def _draw(flow: Flow, cell: Cell, reference: Reference) -> Drawn:
    u = uniforms(cell.seed, "sample label", torch.arange(cell.samples), ())
    y = None if flow.classes is None else reference.labels[(u * len(reference.labels)).long()]
    drawn = flow.draw(cell.samples, cell.seed, y=y, batch=cell.batch, **cell.options())
    bad = (~drawn.x.isfinite()).flatten(1).any(1).sum()
    if bad:
        raise NumericalError(f"{int(bad)} of {cell.samples} samples are not finite", where=str(cell))
    return drawn


def _distances(features: Tensor, cell: Cell, reference: Reference) -> Row:
    row: Row = {}
    found = distances_of(cell.distances, features, reference.heldout[: cell.reference_images])
    for distance, value in found.items():
        name = f"{distance}_{reference.features}"
        row[name], row[f"{name}_low"], row[f"{name}_high"] = value
        row[f"{name}_floor"] = reference.floor(distance, cell)
    return row


def distances_of(names: Sequence[str], features: Tensor, heldout: Tensor) -> dict[str, Estimate]:
    """The named distances of two sets of features, each with its interval."""
    return {name: estimate(name, features, heldout) for name in names}


def _likelihood(flow: Flow, cell: Cell, reference: Reference) -> Row:
    """Bits/dim of the held-out images; it counts only if a finer solution agrees: a coarse one is of no model."""
    images = reference.images[: cell.nll_images]
    if not len(images) or tableau(cell.solver).one_way:
        return {"bits_per_dim": None, "bits_per_dim_stderr": None, "bits_per_dim_k1": None, "nll_converged": None}

    def bits(finer: bool) -> Likelihood:
        y = None if flow.classes is None else reference.labels[: len(images)]
        return flow.bits_per_dim(images, cell.nll_k, seed=cell.seed, y=y, batch=cell.batch, **cell.options(finer))

    found, seconds = _timed(lambda: bits(finer=False))
    value = float(found.bpd.double().mean())
    # Image by image: errors of both signs cancel in the mean, and a mean may stand still while it crosses the truth.
    moved = float((bits(finer=True).bpd - found.bpd).double().abs().mean())
    converged = moved < CONVERGED  # False for nan too
    return {
        "bits_per_dim": value if converged else None,
        "bits_per_dim_stderr": _finite(found.stderr) if converged else None,
        "bits_per_dim_k1": float(found.bpd_k1.double().mean()) if converged else None,
        "nll_converged": converged,
        "nll_unconverged": None if converged else _finite(value),
        "nll_moved": _finite(moved),
        "nll_nfe": found.nfe,
        "nll_k": cell.nll_k,
        "nll_images": len(images),
        "nll_probe": "per_image",
        "nll_seconds": round(seconds, 3),
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None  # JSON has no nan


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start

"""One cell of an evaluation: a flow, a solver and its budget -> one Row with value, uncertainty, floor and lineage.

A cell falls into parts of whole solver batches, which may be measured anywhere in any order: what a part gives depends
on the cell alone, and a row is made of the parts in their order. Where parts run, and how often a failed one is tried
again, is not decided here.
"""

import hashlib
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fm.arithmetic import as_asked
from fm.cells import Cell
from fm.columns import (
    CONVERGED_TOLERANCE,
    Found,
    distance_columns,
    error_columns,
    fidelity_columns,
    inception_columns,
    likelihood_columns,
    value_columns,
    way_columns,
)
from fm.enlarging import shrunk
from fm.errors import NumericalError, SettingsError
from fm.flow import NOISE, Drawn, Flow
from fm.lineage import code_digest, digest
from fm.metrics import Features, class_probabilities, psnr, ssim
from fm.noise import draws, uniforms
from fm.optimised import OPTIMISED, grid_of
from fm.pixels import to_pixels
from fm.plugins import named
from fm.reference import HELDOUT, TRAINING, Pairs, Reference
from fm.results import FIDELITIES, Row
from fm.solvers import steps
from fm.tableaux import tableau
from fm.ways import TIMES, described

SAMPLES, BITS, TRAINING_BITS = "samples", "bits", "training-bits"  # the kinds of parts
PART = 256  # samples of a part, about
PARTS, AGAIN = ".parts", "again"  # where in RUN the parts of a row lie by its key, and inside it those of a rerun
ADAPTIVE = {"joint": "adaptive, joint within the batch", "per_sample": "adaptive, per_sample"}  # the grids' names


PairsAt = Callable[[str, int, int], Pairs | None]  # split, start, stop of its order -> what belongs there


def unpaired(split: str, start: int, stop: int) -> None:
    """There are no small pictures."""


class Part(NamedTuple):
    """Samples, or images for bits/dim, from `start` on, `stop` not included: whole batches of the solver."""

    kind: str
    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.kind} {self.start} to {self.stop - 1}"


def parts(cell: Cell, heldout: int, training: int) -> list[Part]:
    """The parts of a cell where so many held-out and training images are there for bits/dim."""
    found = _cut(SAMPLES, cell.samples, -(-PART // cell.batch) * cell.batch)
    if not tableau(cell.solver).one_way:
        found += _cut(BITS, min(cell.nll_images, heldout), cell.batch)
        found += _cut(TRAINING_BITS, min(cell.nll_training_images, training), cell.batch)
    return found


def _cut(kind: str, count: int, size: int) -> list[Part]:
    return [Part(kind, start, min(start + size, count)) for start in range(0, count, size)]


def evaluate(
    flow: Flow,
    cell: Cell,
    features: Features,
    reference: Reference,
    converged: Found | None = None,
    pairs: PairsAt = unpaired,
    guide: Flow | None = None,
) -> Row:
    """All parts of a cell in turn, as one row: distances of its samples, bits/dim of images by the same solver.

    `converged` is what `converge` gives, for the numerical error and the ways. A super-resolution network needs
    `pairs(split, start, stop)`, a cell with a guide its flow.

    Raises: SettingsError if flow, features and reference do not belong together; NumericalError for samples that are
    not finite, unless the cell drops them.
    """
    check(flow, features, reference)
    found = []
    for part in parts(cell, len(reference.images), len(reference.training_images)):
        if part.kind == SAMPLES:
            found.append((part, sample(flow, cell, part, features, reference.labels, pairs(HELDOUT, *part[1:]), guide)))
        else:
            training = part.kind == TRAINING_BITS
            images = (reference.training_images if training else reference.images)[part.start : part.stop]
            labels = (reference.training_labels if training else reference.labels)[part.start : part.stop]
            split = TRAINING if training else HELDOUT
            found.append((part, score(flow, cell, part, images, labels, pairs(split, *part[1:]))))
    return row_of(flow, cell, found, features, reference, converged)


def check(flow: Flow, features: Features, reference: Reference) -> None:
    """Raises: SettingsError if these do not belong together."""
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


def sample(
    flow: Flow,
    cell: Cell,
    part: Part,
    features: Features,
    labels: Tensor,
    pairs: Pairs | None = None,
    guide: Flow | None = None,
) -> Found:
    """Draws these samples: features (n, d) float32, with Inception's the classes (n, 1008), nfe (n,), finite (n,) bool,
    noise (n, 32) SHA-256 of each sample's initial noise, of the values of each sample's state their mean, square and
    share outside of [-1, 1), each (n,), the states (k, *shape) whose error is measured, seconds.

    `labels` have the frequencies to draw with. Of super-resolution sample i belongs to the small picture of pair i, and
    `psnr`, `ssim` (to the image) and `low_psnr` (its means to the small picture), each (n,), are found too.
    """
    start, positions = time.perf_counter(), torch.arange(part.start, part.stop)
    y = labels_of(flow, cell.seed, positions, labels)
    with as_asked(flow.device, tf32=cell.sampling_precision == "tf32"):
        drawn, finite = _drawn(flow, cell, part, y, pairs.low if pairs else None, guide)
    seconds, images = time.perf_counter() - start, to_pixels(drawn.x).cpu()
    classes = class_probabilities(images, features)
    told = {} if classes is None else {"classes": classes}
    if pairs:
        told |= fidelity(images, pairs)
    return told | {
        "features": features(images),
        "nfe": drawn.nfe_per_sample,
        "finite": finite,
        "noise": _hashes(draws(cell.seed, NOISE, positions, flow.shape)),
        **_values(drawn.x.cpu()),
        "states": drawn.x[: max(0, cell.error_images - part.start)].cpu(),
        "seconds": torch.tensor(seconds, dtype=torch.float64),
        "on_gpu": torch.tensor(flow.device.type == "cuda"),
    }


def fidelity(images: Tensor, pairs: Pairs) -> Found:
    """How near images uint8 (n, c, h, w) are to the pairs', and their means to the small pictures, (n,) each."""
    means = shrunk(images, pairs.low.shape[-1])
    return {
        "psnr": psnr(images, pairs.images),
        "ssim": ssim(images, pairs.images),
        "low_psnr": psnr(means, pairs.low),
    }


def _values(x: Tensor) -> Found:
    flat = x.flatten(1).double()
    outside = ((flat < -1) | (flat >= 1)).double()
    return {"mean": flat.mean(1), "square": flat.square().mean(1), "outside": outside.mean(1)}


def labels_of(flow: Flow, seed: int, positions: Tensor, law: Tensor) -> Tensor | None:
    """The labels of samples, as frequent as in `law`; None for a network without."""
    if flow.classes is None:
        return None
    return law[(uniforms(seed, "sample label", positions, ()) * len(law)).long()]


def _drawn(
    flow: Flow, cell: Cell, part: Part, y: Tensor | None, low: Tensor | None, guide: Flow | None
) -> tuple[Drawn, Tensor]:
    """These samples, and which of them are finite; of a batch with others each sample is solved alone, zero if it has
    no finite solution."""

    def draw(first: int, stop: int) -> Drawn:
        here = slice(first - part.start, stop - part.start)
        own_y, own_low = (None if one is None else one[here] for one in (y, low))
        given: dict[str, Any] = {"y": own_y, "low": own_low, "batch": cell.batch, "start": first}
        given |= {"guidance": cell.guidance, "interval": cell.interval, "guide": guide}
        return flow.draw(stop - first, cell.seed, **given, **cell.options())

    drawn, finite = [], torch.ones(part.stop - part.start, dtype=torch.bool)
    for first in range(part.start, part.stop, cell.batch):
        stop = min(first + cell.batch, part.stop)
        try:
            drawn.append(draw(first, stop))
            continue
        except NumericalError:
            pass
        for place in range(first, stop):
            try:
                drawn.append(draw(place, place + 1))
            except NumericalError:
                finite[place - part.start] = False
                drawn.append(Drawn(torch.zeros(1, *flow.shape, device=flow.device), torch.zeros(1, dtype=torch.int64)))
    return Drawn(torch.cat([one.x for one in drawn]), torch.cat([one.nfe_per_sample for one in drawn])), finite


def _hashes(rows: Tensor) -> Tensor:
    """SHA-256 of each row, (n, 32) uint8."""
    digests = [hashlib.sha256(row.numpy().tobytes()).digest() for row in rows]
    return torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(-1, 32)


def converge(flow: Flow, seed: int, start: int, stop: int, labels: Tensor, pairs: Pairs | None = None) -> Found:
    """The states (n, *shape) at t = 1 of these samples with next to no numerical error (dopri5 at 1e-6, each with its
    own steps), and how they came there, as `fm.ways.described` says."""
    cell = Cell(solver="dopri5", tolerance=CONVERGED_TOLERANCE, control="per_sample")
    y = labels_of(flow, seed, torch.arange(start, stop), labels)
    with as_asked(flow.device, tf32=False):
        low = pairs.low if pairs else None
        states = flow.trajectory(stop - start, TIMES, seed, y=y, low=low, start=start, **cell.options()).cpu()
    return {"states": states[-1].clone(), **described(states)}


def score(flow: Flow, cell: Cell, part: Part, images: Tensor, labels: Tensor, pairs: Pairs | None = None) -> Found:
    """Bits/dim of these images, each (n,): bpd, bpd_k1, per_draw (a probe for each draw), nfe, finer (with twice the
    steps; of held-out images alone), and seconds."""
    y, both = None if flow.classes is None else labels, cell.nll_probe == "both"

    def bits(finer: bool, **options: Any) -> Any:
        options |= {"seed": cell.seed, "y": y, "batch": cell.batch, "start": part.start}
        options |= {"low": pairs.low} if pairs else {}
        return flow.bits_per_dim(images, cell.nll_k, **options, **cell.options(finer))

    start = time.perf_counter()
    found = bits(finer=False, **({"probe": "per_draw"} if both else {}))
    measured = {
        "bpd": found.bpd + found.probe_gain,
        "bpd_k1": found.bpd_k1,
        "nfe": torch.full((len(images),), found.nfe, dtype=torch.float64),
        "seconds": torch.tensor(time.perf_counter() - start, dtype=torch.float64),
    }
    if both:
        measured["per_draw"] = found.bpd
    if part.kind == BITS:
        measured["finer"] = bits(finer=True).bpd
    return {name: value.cpu() for name, value in measured.items()}


def row_of(
    flow: Flow,
    cell: Cell,
    found: Iterable[tuple[Part, Found]],
    features: Features,
    reference: Reference,
    converged: Found | None = None,
) -> Row:
    """The row of a cell whose parts were found, whoever found them.

    Raises: NumericalError for samples that are not finite, unless the cell drops them.
    """
    kinds = {kind: _joined([own for part, own in sorted(found) if part.kind == kind]) for kind in KINDS}
    samples = kinds[SAMPLES]
    plugins = flow.lineage.get("plugins", "")
    finite = _finite_samples(samples["finite"], cell)
    nfe = samples["nfe"][finite]
    sets = reference.sets(cell)
    return {
        "key": row_key(str(flow.lineage.get("weights")), cell, features.identity, reference.data, plugins),
        **head(flow, cell),
        "nfe": int(nfe.max()),
        "nfe_mean": float(nfe.double().mean()),
        "samples_not_finite": int((~finite).sum()),
        **value_columns(*(samples[name][finite] for name in ("mean", "square", "outside"))),
        "seconds": round(float(samples["seconds"].sum()), 3),
        **distance_columns(cell.distances, reference.features, samples["features"][finite], *sets),
        **inception_columns(samples["classes"][finite] if "classes" in samples else None),
        **fidelity_columns({name: value[finite] for name, value in samples.items() if name in FIDELITIES.values()}),
        **(error_columns(samples["states"], converged["states"], finite) | way_columns(converged) if converged else {}),
        **likelihood_columns(cell, kinds[BITS], kinds[TRAINING_BITS]),
        **{name: value for name, value in flow.lineage.items() if name != "method"},
        "data": reference.data,
        "features": features.name,
        "features_weights": features.weights,
        "features_preprocessing": features.preprocessing,
        "features_dimensions": reference.heldout.shape[1],
        "levels": "floor((x + 1) 128), clipped to 0..255",
        "reference_images": len(sets[0]),
        "reference_split": cell.reference_split,
        "batch": cell.batch,
        "grid": ADAPTIVE[cell.control] if cell.tolerance is not None else cell.grid or tableau(cell.solver).grid,
        **({"grid_times": _optimised(flow, cell)} if cell.grid == OPTIMISED else {}),
        "noise": "sample i: position i of stream 'sample'",
        "noise_digest": hashlib.sha256(samples["noise"].numpy().tobytes()).hexdigest()[:16],
        "labels": "none" if flow.classes is None else "as frequent as in the held-out images",
        **({"low_size": flow.low_size} if flow.low_size else {}),
        "precision": cell.sampling_precision,
        "cell": cell.model_dump_json(),
        "code": _code(cell, plugins),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "device": "cuda" if samples["on_gpu"].any() else "cpu",
    }


KINDS = (SAMPLES, BITS, TRAINING_BITS)


def _optimised(flow: Flow, cell: Cell) -> list[float]:
    """The times that were chosen for a cell."""
    return grid_of(flow.grids[cell.solver])(flow.path, 0.0, flow.path.t_max, steps(cell.solver, cell.nfe))


def head(flow: Flow, cell: Cell) -> Row:
    """What a row is found by."""
    return {
        "method": flow.lineage.get("method", flow.method),
        "path": flow.path.kind,
        "solver": cell.solver,
        "nfe": cell.nfe,
        "nfe_mean": None,
        "tolerance": cell.tolerance,
        "control": cell.control if cell.tolerance is not None else None,
        "samples": cell.samples,
        "seed": cell.seed,
        **({"chosen_grid": cell.grid} if cell.grid else {}),
        **guidance_columns(cell),
    }


def guidance_columns(cell: Cell) -> Row:
    """How a cell is guided; nothing of one that is not."""
    if not cell.guidance:
        return {}
    return {"guidance": cell.guidance, "guidance_interval": list(cell.interval), "guide": cell.guide}


def failed_row(flow: Flow, cell: Cell, features: tuple[str, str], data: str, why: str) -> Row:
    """What stands for a cell that could not be measured, by features of this name and identity; it is tried again."""
    weights, plugins = str(flow.lineage.get("weights")), flow.lineage.get("plugins", "")
    lineage = {name: value for name, value in flow.lineage.items() if name != "method"}
    key = row_key(weights, cell, features[1], data, plugins)
    own = {"data": data, "features": features[0], "batch": cell.batch, "cell": cell.model_dump_json(), "seconds": 0.0}
    return {"key": key, "failed": why, **head(flow, cell), **lineage, **own}


def row_key(weights: str, cell: Cell, features: str, data: str, plugins: str = "") -> str:
    """Identifies a measurement before it is made: hashes of weights, data, cell, features, code and library.

    `features` is their `identity`.
    `plugins` are the import paths that the network was trained with, as in `Recipe.plugins`.
    """
    return digest(weights, data, cell, features, _code(cell, plugins), torch.__version__)


def solutions_name(weights: str, cell: Cell, data: str) -> str:
    """The file in RUN/.parts of the converged solutions from a cell's noise, with labels of the data's frequencies."""
    drawn, labels = (weights, cell.seed, cell.error_images), (data, cell.reference_images)
    return f"converged-{digest(*drawn, *labels, code_digest(), torch.__version__)}.safetensors"


def _code(cell: Cell, plugins: str) -> str:
    """The code that a cell's numbers come from: this project's, and that of the plug-ins."""
    return code_digest(*sorted({name for name in [*plugins.split(", "), cell.solver] if named(name)}))


def _joined(found: Sequence[Found]) -> Found:
    """The rows of all parts, in their order."""
    if not found:
        return {}
    return {name: torch.cat([own[name] if own[name].ndim else own[name][None] for own in found]) for name in found[0]}


def _finite_samples(finite: Tensor, cell: Cell) -> Tensor:
    bad = (~finite).nonzero().flatten().tolist()
    if bad and (cell.nonfinite == "refuse" or len(bad) > len(finite) - 2):
        which = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
        raise NumericalError(
            f"{len(bad)} of {len(finite)} samples have no finite solution (number {which})",
            where=str(cell),
            mend="more steps or a finer tolerance; evaluation.nonfinite=drop leaves them out and counts them",
        )
    return finite

"""From what the parts of a cell gave to the columns of its row: values with their intervals, floors, what counts."""

import math
from collections.abc import Sequence

from torch import Tensor

from fm.cells import Cell
from fm.jackknife import means_without
from fm.metrics import Estimate, distance, estimate, fd_extrapolated, inception_score, of_reference
from fm.metrics.score import SPLITS
from fm.results import Row

MOVED = 0.001  # bits/dim: a likelihood counts only if twice the steps (or a tenth of the tolerance) move it less,
CONVERGED = 0.01  # and each of its images by less than this on average
CONVERGED_TOLERANCE = 1e-6  # of the solutions that numerical errors are measured against

WAYS = ("bend", "detour", "backtracking", "appears")  # of `fm.ways.described`

Found = dict[str, Tensor]  # what one part gives: tensors by name, their rows in the order of samples or images


def distance_columns(names: Sequence[str], of: str, features: Tensor, reference: Tensor, real: Tensor) -> Row:
    """The columns of `distances_of` features of the network `of`."""
    row: Row = {}
    found = distances_of(names, features, reference, real)
    for kind, (value, floor) in found.items():
        name = f"{kind}_{of}"
        row[name], row[f"{name}_low"], row[f"{name}_high"] = value.value, value.low, value.high
        row[f"{name}_without"], row[f"{name}_floor"] = list(value.without), floor
        row[f"{name}_ratio"] = value.value / floor if floor and floor > 0 else None
    if "fd_infinity" in found:
        row[f"fd_infinity_{of}_stderr"] = fd_extrapolated(features, reference).stderr  # of the line alone
    return row


def distances_of(
    names: Sequence[str], features: Tensor, reference: Tensor, real: Tensor
) -> dict[str, tuple[Estimate, float | None]]:
    """The named distances of features from those of real images, each with its interval and its floor.

    The floor is the distance of as many rows of `real`, what real pictures would get; None if there are fewer, for a
    distance depends on the count.
    """
    found = {}
    for name in names:
        alone, floor = of_reference(name, reference), None
        if len(features) <= len(real):
            floor = distance(name, real[: len(features)], reference, alone)
        found[name] = estimate(name, features, reference, alone), floor
    return found


def inception_columns(classes: Tensor | None) -> Row:
    """The Inception Score of class probabilities (n, 1008) as columns of a row; none for fewer than ten samples."""
    if classes is None or len(classes) < SPLITS:
        return {}
    mean, spread = inception_score(classes)
    return {"inception_score": mean, "inception_score_sd": spread}


def fidelity_columns(found: Found) -> Row:
    """Means over samples of what super-resolution is judged by image by image, with their standard errors and groups;
    nothing of other networks. PSNR is in dB."""
    row: Row = {}
    for name, values in found.items():
        row[name], row[f"{name}_stderr"] = float(values.mean()), _stderr(values)
        row[f"{name}_without"] = means_without(values.tolist())
    return row


def value_columns(mean: Tensor, square: Tensor, outside: Tensor) -> Row:
    """The s.d. of all values of the samples, and the share of them outside of those of a picture, from each sample's
    means (n,) of its values, their squares, and whether they lie there."""
    variance = float(square.double().mean() - mean.double().mean().square())
    return {"samples_sd": math.sqrt(max(0.0, variance)), "samples_outside": float(outside.double().mean())}


def error_columns(states: Tensor, converged: Tensor, finite: Tensor) -> Row:
    """RMS difference per value of states and converged ones of the same finite samples, in the units of x."""
    most = min(len(states), len(converged))
    taken = finite[:most].nonzero().flatten()
    count = len(taken)
    if not count:
        return {}
    squares = (states[taken] - converged[taken]).double().square().flatten(1).mean(1)
    error = float(squares.mean().sqrt())
    spread, without = (
        float(squares.std() / math.sqrt(count)) if count > 1 else math.nan,
        means_without(squares.tolist()),
    )
    return {
        "solution_error": error,
        "solution_error_without": None if without is None else [math.sqrt(value) for value in without],
        "solution_error_stderr": _number(spread / (2 * error)) if error else None,
        "solution_error_images": count,
        "solution_error_tolerance": CONVERGED_TOLERANCE,
    }


def way_columns(found: Found) -> Row:
    """`way_bend` and its kin with their standard errors and groups, from what `fm.ways.described` gave; None where a
    sample has not moved."""
    row: Row = {}
    for name in WAYS:
        values = found[name]
        row[f"way_{name}"], row[f"way_{name}_stderr"] = _number(float(values.mean())), _stderr(values)
        row[f"way_{name}_without"] = means_without(values.tolist()) if bool(values.isfinite().all()) else None
    return row


def likelihood_columns(cell: Cell, heldout: Found, training: Found) -> Row:
    """Bits/dim of the held-out images; it counts only if a finer solution agrees: a coarse one is of no model."""
    if not heldout:
        return {"bits_per_dim": None, "bits_per_dim_stderr": None, "bits_per_dim_k1": None, "nll_converged": None}
    bpd, k1 = heldout["bpd"].double(), heldout["bpd_k1"].double()
    value, moved = float(bpd.mean()), heldout["finer"].double() - bpd
    # Image by image too: errors of both signs cancel in the mean, which may stand still while it crosses the truth.
    converged = float(moved.mean().abs()) < MOVED and float(moved.abs().mean()) < CONVERGED  # False for nan
    row = {
        "bits_per_dim": value if converged else None,
        "bits_per_dim_stderr": _stderr(bpd) if converged else None,
        "bits_per_dim_k1": float(k1.mean()) if converged else None,
        "bits_per_dim_k1_stderr": _stderr(k1) if converged else None,
        "bits_per_dim_k1_without": means_without(k1.tolist()) if converged else None,
        "bits_per_dim_without": means_without(bpd.tolist()) if converged else None,
        "nll_converged": converged,
        "nll_unconverged": None if converged else _number(value),
        "nll_moved": _number(float(moved.mean())),
        "nll_moved_abs": _number(float(moved.abs().mean())),
        "nll_nfe": float(heldout["nfe"].mean()),
        "nll_k": cell.nll_k,
        "nll_images": len(bpd),
        "nll_probe": cell.nll_probe,
        "nll_seconds": round(float(heldout["seconds"].sum()), 3),
    }
    if "per_draw" in heldout and converged:
        lucky = heldout["per_draw"].double()
        row["bits_per_dim_per_draw"], row["bits_per_dim_per_draw_stderr"] = float(lucky.mean()), _stderr(lucky)
        row["bits_per_dim_per_draw_without"] = means_without(lucky.tolist())
    if training and converged:
        own = training["bpd"].double()
        row["bits_per_dim_train"], row["bits_per_dim_train_stderr"] = float(own.mean()), _stderr(own)
        row["bits_per_dim_train_without"], row["nll_training_images"] = means_without(own.tolist()), len(own)
        row["generalisation_gap"] = value - float(own.mean())
        row["generalisation_gap_stderr"] = _number(math.hypot(_stderr(bpd) or math.nan, _stderr(own) or math.nan))
    return row


def _stderr(values: Tensor) -> float | None:
    return _number(float(values.std() / math.sqrt(len(values)))) if len(values) > 1 else None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no nan

"""What is said of trained paths in the plane: tables and captions, every word in them from a number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fm.metrics.trajectories import backtracking, overshoot, straightness, turning
from fm.noise import draws
from fm.paths import Path
from fm.report.plane_figures import (
    CELL,
    FIELD_TIMES,
    GRIDS,
    LINES,
    NOISES,
    conditional_fields,
    conditional_states,
    histogram,
    square,
)
from fm.results import Row, number

PAIRS = 2000  # noises of the numbers about conditional trajectories
STEPS = 100
PAST = 0.01  # of the chord: what counts as overshooting


@dataclass(frozen=True)
class Trained:
    """One trained path: its name in the pictures, what was measured, and where the RUN lies.

    samples: NFE -> (n, 2); states: (times, n, 2) of the trajectories; densities: (TIMES, n, 2).
    """

    name: str
    path: Path
    rows: Sequence[Row]
    numbers: Mapping[str, float]
    samples: Mapping[int, Tensor]
    states: Tensor
    densities: Tensor
    run: str
    seconds: float

    @property
    def exact(self) -> Row:
        """The row of the adaptive solver."""
        return next(row for row in self.rows if row["tolerance"] is not None)

    def at(self, nfe: int, grid: str = "uniform") -> Row:
        return next(r for r in self.rows if r["tolerance"] is None and r["nfe"] == nfe and r["grid"] == grid)


@dataclass(frozen=True)
class Section:
    """One distribution: true points (n, 2), and each path that was trained on it."""

    name: str
    true: Tensor
    times: Sequence[float]
    trained: Sequence[Trained]


def tables(section: Section) -> tuple[list[list[str]], list[list[str]]]:
    """The distances of all solvers and the likelihoods, the paths side by side, for page and terminal."""
    names = [t.name for t in section.trained]
    lines = [["solver", "steps", "NFE", *(f"{name}: energy distance x 1000" for name in names), "floor", "lower"]]
    for rows in zip(*(t.rows for t in section.trained), strict=True):
        nfe = " / ".join(dict.fromkeys(f"{row['nfe']}" for row in rows))
        step = GRIDS.get(rows[0]["grid"], "adaptive")
        values = [_with_half(row, "energy") for row in rows]
        lines.append([rows[0]["solver"], step, nfe, *values, _with_half(rows[0], "energy_floor"), _lowest(rows, names)])
    bits = [["density", "solver", "tolerance", "NFE", "bits/dim", "above the true density"]]
    for t in section.trained:
        row = t.exact
        values = ["not converged"] * 2
        if row["nll_converged"]:
            values = [f"{row[f'bits_{x}']:.3f} ± {1.96 * row[f'bits_{x}_stderr']:.3f}" for x in ("per_dim", "excess")]
        bits.append([t.name, row["solver"], f"{row['tolerance']:g}", f"{row['nll_nfe']:.0f}", *values])
    true = section.trained[0].exact["bits_per_dim_floor"]
    return lines, [*bits, ["true density", "exact", "", "", f"{true:.3f}", "0"]]


def _with_half(row: Row, name: str) -> str:
    """In thousandths, with half the 95 % interval."""
    return f"{1000 * row[name]:.2f} ± {500 * (row[f'{name}_high'] - row[f'{name}_low']):.2f}"


def _lowest(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The path whose interval lies below all others; a dash where none does."""
    best = min(rows, key=lambda row: row["energy_high"])
    apart = all(row is best or row["energy_low"] > best["energy_high"] for row in rows)
    return names[list(rows).index(best)] if apart else "-"


def noises() -> Tensor:
    """The noises of the conditional trajectories, (PAIRS, 2)."""
    return draws(0, "conditional", torch.arange(PAIRS), (2,))


def of_fields(paths: Mapping[str, Path]) -> str:
    turned = []
    for name, field in conditional_fields(paths).items():
        vectors = torch.stack([field(square(13), t) for t in FIELD_TIMES])
        turned.append(f"{' '.join(name.split())} {float(turning(vectors)[-1]):.1f} degrees")
    return (
        "Figure 2. The field that leads to the star, one data point. Follow a row: between the first time and the last"
        f" the arrows turn by {', '.join(turned)} (mean over a grid of 13 x 13 places). A field whose directions do not"
        " depend on time is the simpler one to learn. Colours are strengths."
    )


def of_conditional_paths(paths: Mapping[str, Path]) -> str:
    facts = []
    for name, path in paths.items():
        states = conditional_states(path, noises(), STEPS)
        length, away = float(straightness(states).mean()), float(backtracking(states).mean())
        past = float((overshoot(states) > PAST).double().mean())
        facts.append(
            f"{name}: length over chord {length:.3f}, {past:.0%} of paths pass the star by more than {PAST:.0%} of the"
            f" chord, {away:.1%} of steps move away from it"
        )
    return (
        f"Figure 3. {NOISES} noises (rings) on their way to one data point (star); dots at every tenth of the time."
        f" Over {PAIRS} noises in {STEPS} even steps, in closed form without a solver: {'; '.join(facts)}."
    )


def of_trajectories(section: Section) -> str:
    facts = [
        f"{t.name}: length over chord {t.numbers['straightness']:.2f} (median; mean"
        f" {t.numbers['straightness_mean']:.2f}), {t.numbers['backtracking']:.0%} of steps move away from the end point"
        for t in section.trained
    ]
    first, spreads = section.trained[0], [f"{t.name} {t.numbers['spread']:.2f}" for t in section.trained]
    return (
        f"Figure 3, learned: {LINES} trajectories from noise (rings) to data (dots), over the true density. Of"
        f" {first.numbers['paths']:.0f} trajectories seen at {first.numbers['steps']:.0f} even steps (dopri5 at"
        f" {first.exact['tolerance']:g}): {'; '.join(facts)}. What is learned is the mean of the conditional velocities"
        " of all pairs that pass a place, so it need not be as straight as each of them. How far the states draw"
        f" together on their way: the least spread of a coordinate is {', '.join(spreads)}, from 1 at t = 0."
    )


def of_densities(section: Section) -> str:
    truth, facts = histogram(section.true), []
    for t in section.trained:
        shares = [float(torch.minimum(histogram(x), truth).sum()) * CELL**2 for x in t.densities]
        facts.append(f"{t.name} {', '.join(f'{share:.0%}' for share in shares)}")
    times = ", ".join(f"{t:g}" for t in section.times)
    return (
        f"Figure 4. Histograms of {section.trained[0].densities.shape[1]} states on their way (dopri5 at 0.001), in"
        f" cells of {CELL:g}; under each the exact p_t, of true points and noise; colours by the root of the"
        " density. How early the data's shape appears:"
        f" the mass shared with the data's own histogram at t = {times} is {'; '.join(facts)}."
    )


def of_samples(section: Section) -> str:
    facts = [
        f"at NFE {nfe} " + ", ".join(f"{t.name} {number(t.at(nfe)['energy'])}" for t in section.trained)
        for nfe in sorted(section.trained[0].samples)
    ]
    n = len(next(iter(section.trained[0].samples.values())))
    return (
        f"Figure 4. {n} points drawn by midpoint with few network evaluations, steps even in t, seed 0, not selected."
        f" Energy distance to true points {'; '.join(facts)}."
    )


def of_distances(section: Section) -> str:
    names = [t.name for t in section.trained]
    pairs = [rows for rows in zip(*(t.rows for t in section.trained), strict=True) if rows[0]["tolerance"] is None]
    lower = [_lowest(rows, names) for rows in pairs]
    won = ", ".join(f"{name} is lower at {lower.count(name)}" for name in names)
    return (
        f"Energy distance of {section.trained[0].rows[0]['samples']} samples to as many true points (0 for equal sets"
        f" only; bars are 95 % by jackknife). Of {len(pairs)} budgets {won}, beyond both intervals."
    )


def of_bits(section: Section) -> str:
    row = section.trained[0].exact
    return (
        f"bits/dim: minus log2 p(x) over two, mean of {row['nll_images']} held-out points, exact divergence; ± is 95 %."
        " The true density is asked for the same points, so their chance cancels in the difference. A value stands only"
        " where ten times the tolerance moves it by less than 0.01."
    )

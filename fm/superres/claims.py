"""What the paper says of super-resolution, and what a sampler of it must do: each with a stated test."""

from collections.abc import Mapping, Sequence

from fm.comparing import NOISE
from fm.jackknife import half_interval
from fm.paper.claim import ONE_SEED, Claim, Difference, Finding, contrast, decided, differing
from fm.paper.methods import OT
from fm.paper.reading import distance_name
from fm.paper.trained import Trained
from fm.results import Row, number
from fm.superres.plan import REGRESSION, SR3
from fm.superres.reading import Answers, of_method

# What two rows must share to be paired; the solver is each method's own.
ALIKE = (*NOISE, "data", "features", "features_weights", "samples", "reference_images", "reference_split")
NEAR = 30.0  # dB
VISIBLE = 1.0  # grey level
FULL = "the paper's own: ImageNet 64 -> 256, 50,000 images, and several seeds"
PAIRED = "in each training seed the difference, paired by image, lies"


def claims(trained: Sequence[Trained], answers: Answers | None) -> list[Claim]:
    """All claims with their verdicts."""
    name = distance_name(trained)
    return [
        _better(
            trained,
            "psnr",
            "Regression is nearest to the truth",
            "Regression has the highest PSNR: it answers with the mean of what may be true.",
            f"PSNR to the held-out image: {PAIRED} above zero with its whole 95 % interval, against each sampler.",
            [(REGRESSION, other, "psnr", -1) for other in (SR3, OT)],
        ),
        _better(
            trained,
            "distance",
            "Flow matching draws likelier pictures than regression",
            "FM w/ OT has a lower FID than regression.",
            f"{name or 'A distance'}: {PAIRED} below zero with its whole 95 % interval.",
            [(OT, REGRESSION, name, 1)],
        ),
        _better(
            trained,
            "sr3",
            "Flow matching draws likelier pictures than SR3",
            "FM w/ OT has a lower FID than SR3.",
            f"{name or 'A distance'} by dopri5 at the finest tolerance: {PAIRED} below zero with its whole 95 %"
            " interval. The baseline is trained as SR3, and sampled by the same solver as flow matching.",
            [(OT, SR3, name, 1)],
        ),
        _nfe(trained),
        _near(trained),
        _varied(answers),
    ]


Pair = tuple[str, str, str, int]  # method, other method, column, sign of a better difference being below zero


def _better(trained: Sequence[Trained], key: str, title: str, says: str, test: str, pairs: Sequence[Pair]) -> Claim:
    return decided(key, title, says, test, [_compared(trained, *pair) for pair in pairs], FULL)


def _compared(trained: Sequence[Trained], ours: str, other: str, column: str, sign: int) -> Finding:
    """Whether in each seed sign times the paired difference ours - other lies below zero with its whole interval."""
    mine, theirs = of_method(trained, ours), of_method(trained, other)
    if lacks := _lacking(mine, theirs, ours, other):
        return Finding(None, lacks)
    found = {seed: _difference(row, theirs[seed], column) for seed, row in mine.items()}
    judged = differing(f"{ours} minus {other}", found if sign > 0 else _negated(found))
    shown = differing(f"{ours} minus {other}", found)
    known = [one for one in found.values() if not isinstance(one, str)]
    opposite = bool(known) and all(sign * value - half > 0 for value, half in known)
    return Finding(judged.holds, f"{column}, {shown.says}" + "; the opposite was found here" * opposite)


def _negated(found: Mapping[int, Difference]) -> dict[int, Difference]:
    return {seed: one if isinstance(one, str) else (-one[0], one[1]) for seed, one in found.items()}


def _difference(ours: Row, other: Row, column: str) -> Difference:
    if not all(row.get(f"{column}_without") for row in (ours, other)):
        return f"{column} was not measured of both"
    if any(ours.get(key) != other.get(key) for key in ALIKE):
        return "measured on other images, by other features or from other noise"
    if any(row.get("samples_not_finite") for row in (ours, other)):
        return "some samples are not finite, and their images have no partners"
    return contrast([(1, ours, column), (-1, other, column)])


def _lacking(mine: Mapping[int, Row], theirs: Mapping[int, Row], ours: str, other: str) -> str:
    if not mine or not theirs:
        return f"{ours if not mine else other} was not measured"
    return next((f"{other} has no seed {seed}" for seed in mine if seed not in theirs), "")


def _nfe(trained: Sequence[Trained]) -> Claim:
    """Fewest evaluations, of two samplers by the same solver."""
    mine, theirs = of_method(trained, OT), of_method(trained, SR3)
    lacks = _lacking(mine, theirs, OT, SR3)
    counts = [[row["nfe_mean"] for row in side.values()] for side in (mine, theirs)]
    found = Finding(None, lacks)
    if not lacks:
        told = ["; ".join(f"{number(value)}" for value in side) for side in counts]
        holds = max(counts[0]) < min(counts[1]) if len(mine) > 1 else None
        doubt = "" if len(mine) > 1 else f"; {ONE_SEED}"
        found = Finding(holds, f"NFE {told[0]} of {OT}, {told[1]} of {SR3}{doubt}")
    return decided(
        "nfe",
        "Fewer evaluations than SR3",
        "FM w/ OT takes fewer evaluations than diffusion.",
        "NFE a sample of dopri5 at the finest tolerance: the worst seed of OT is below the best of the other.",
        [found],
        FULL,
    )


def _near(trained: Sequence[Trained]) -> Claim:
    found = [_near_one(seed, row) for seed, row in of_method(trained, OT).items()]
    return decided(
        "consistent",
        "True to the small picture",
        "What flow matching draws, brought down again, is the small picture that it was given.",
        f"PSNR of the means over pixels to the small picture: above {NEAR:g} dB with the whole 95 % interval.",
        found or [Finding(None, f"{OT} was not measured")],
        "a longer training",
    )


def _near_one(seed: int, row: Row) -> Finding:
    if not row.get("low_psnr_without"):
        return Finding(None, f"seed {seed}: too few samples")
    half = half_interval(row["low_psnr_without"])
    return Finding(row["low_psnr"] - half > NEAR, f"seed {seed}: {row['low_psnr']:.1f} ± {half:.1f} dB")


def _varied(answers: Answers | None) -> Claim:
    found = Finding(None, f"nothing was drawn by {OT}")
    if answers is not None and answers.varied is not None:
        spread = answers.varied.double().var(0).flatten(1).mean(1).sqrt()
        least, mean, most = float(spread.min()), float(spread.mean()), float(spread.max())
        count, seeds = len(spread), len(answers.varied)
        says = f"s.d. over {seeds} seeds of {count} pictures: {mean:.1f} levels, from {least:.1f} to {most:.1f}"
        found = Finding(least > VISIBLE, says)
    return decided(
        "varied",
        "Several answers",
        "Each noise gives another answer: FM w/ OT samples what may be true, and does not average it.",
        f"On each picture the s.d. over seeds is above {VISIBLE:g} grey level.",
        [found],
        "a longer training",
    )

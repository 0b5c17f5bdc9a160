"""Post-hoc EMA (Karras et al. 2024): an average of any length, made of those that a training has kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fm.checkpoints import Saved, kept, read_file
from fm.ema import Combined, Snapshot, combined, gamma_of, power_name
from fm.errors import SettingsError, UserError
from fm.facts import facts_of
from fm.lineage import digest
from fm.publishing import published, published_weights
from fm.recipe import Recipe
from fm.state import Weights

FOLDER = "averages"  # in RUN: RUN/averages/<images seen>/<length>
LENGTHS = (0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2)
MOST_ERROR = 0.2  # of a profile: beyond it an average is not of the length that it is named by


class Source(NamedTuple):
    """An average that a training has kept, and where."""

    checkpoint: Saved
    file: str
    snapshot: Snapshot


class Made(NamedTuple):
    """A network of an average of this length; error: of its profile, relative."""

    length: float
    folder: Path
    error: float


def sources(run: Path, last: Saved) -> list[Source]:
    """What averages at the end of RUN's training can be made of.

    Raises: SettingsError if its recipe kept none.
    """
    lengths = Recipe.load(run).training.ema_lengths
    if not lengths or published_weights(run):
        mend = "train with --set 'training.ema_lengths=[0.05,0.1]' --set training.keep_every_images=N"
        raise SettingsError("kept no averages of which others could be made", str(run), mend)
    there = [saved for saved in kept(run) if 0 < saved.images_seen <= last.images_seen]
    return [
        Source(saved, power_name(length), Snapshot(gamma_of(length), saved.images_seen))
        for saved in there
        for length in lengths
    ]


def planned(run: Path, last: Saved, lengths: Sequence[float] = ()) -> dict[float, Combined]:
    """By length how an average at the end of RUN's training is made; without lengths, of those of `LENGTHS` that what
    was kept is fine enough for.

    Raises: SettingsError for a length that it is too coarse for.
    """
    there = [source.snapshot for source in sources(run, last)]
    due = lengths or LENGTHS
    found = {length: combined(there, Snapshot(gamma_of(length), last.images_seen)) for length in due}
    if not lengths:
        return {length: how for length, how in found.items() if how.error <= MOST_ERROR}
    for length, how in found.items():
        if how.error > MOST_ERROR:
            what = f"{length:g} cannot be made of what RUN kept: the profile would be {how.error:.0%} off"
            mend = "choose lengths nearer to those of training.ema_lengths, or train with a smaller keep_every_images"
            raise SettingsError(what, "--lengths", mend)
    return found


def made(run: Path, last: Saved, length: float, how: Combined) -> Made:
    """The network in a folder of its own, RUN/averages/<images seen>/<length>, unless it stands there."""
    into, there = run / FOLDER / f"{last.images_seen:012d}" / f"{length:g}", sources(run, last)
    made_of = digest([(part.checkpoint.weights, part.file) for part in there], how.coefficients.tolist())
    if not into.exists():
        weights = Weights(_summed(there, how.coefficients.tolist()), last.images_seen)
        facts: dict[str, Any] = {"ema_length": length, "ema_profile_error": round(how.error, 6), "made_of": made_of}
        published(run, weights, into, f"{run.name}, EMA length {length:g}", **facts)
    elif facts_of(into).get("imported", {}).get("made_of") != made_of:
        raise UserError("was made of other checkpoints than RUN has now", str(into), "remove it, and start again")
    return Made(length, into, how.error)


def _summed(parts: Sequence[Source], coefficients: Sequence[float]) -> dict[str, Tensor]:
    """The sum of the parts, in float64: coefficients of both signs cancel; buffers are the newest ones."""
    sums: dict[str, Tensor] = {}
    for part, coefficient in zip(parts, coefficients, strict=True):
        for name, value in read_file(part.checkpoint, part.file).items():
            if value.is_floating_point():
                sums[name] = sums.get(name, torch.zeros(())) + coefficient * value.double()
            else:
                sums[name] = value
    return {name: value.float() if value.is_floating_point() else value for name, value in sums.items()}

"""Two RUNs or more -> their comparison and its page: reads the rows, loads the networks, draws from the same noise.

The numbers are `fm/comparing.py`'s, the page is `fm/report/comparison_page.py`'s.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fm.comparing import Comparison, compare, names_of, run_of
from fm.data import ShardedImages
from fm.errors import UserError
from fm.facts import facts_of
from fm.files import check_writable
from fm.flow import Flow
from fm.metrics import Features, load_features
from fm.metrics.memorisation import memorisation
from fm.pixels import to_pixels
from fm.recipe import load
from fm.records import read
from fm.reference import HELDOUT, TRAINING, described_by, examples, order
from fm.report.comparison_page import Drawn, Nearest, Pictures, write_page, write_tables
from fm.results import read_rows
from fm.runs import pulled
from fm.tableaux import tableau

SAMPLES, TRACED = 200, 4  # samples of each run for the pictures, and trajectories
TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)
TRAINING_IMAGES, HELDOUT_IMAGES = 10_000, 1_000  # at most, to find the nearest ones among
FEATURES = "efficientnet_lite0_b7"
BATCH = 64  # samples drawn between two lines of progress
PART = 1_000  # images whose features are computed between two lines of progress

Say = Callable[[str], None]
Show = Callable[[Comparison], None]


@dataclass(frozen=True)
class Made:
    """A comparison and its page."""

    comparison: Comparison
    page: Path
    notes: list[str]


def side_by_side(
    places: Sequence[str], out: Path, samples: int = SAMPLES, say: Say = print, show: Show | None = None
) -> Made:
    """Compares RUNs (folders or addresses), the first with each other, and writes OUT/report.html.

    `samples` are drawn of each for pictures and nearest training images, 0 for none; `say` is told what takes time.
    Before anything is drawn the tables are written and `show` is given the numbers.

    Raises: UserError if there is nothing to compare, or OUT cannot be written or is a RUN.
    """
    names = names_of(places)
    if (out / "recipe.json").exists():
        raise UserError("is a RUN, whose report would be lost", str(out), "choose another folder for the comparison")
    check_writable(out)
    folders = {place: pulled(place) for place in places}
    runs = [run_of(name, place, read_rows(folders[place])) for name, place in zip(names, places, strict=True)]
    comparison = compare(runs)
    write_tables(out, comparison)
    if show:
        show(comparison)
    solving = {run.name: _solving(folders[run.where]) for run in runs}
    with torch.inference_mode():
        pictures = _pictures(comparison, folders, samples, say) if samples else Pictures({}, TIMES, "")
    page = write_page(out, comparison, solving, pictures)
    return Made(comparison, page, [*comparison.notes, *pictures.notes])


def _solving(run: Path) -> list[dict[str, Any]]:
    """What an adaptive solver took at each checkpoint of a RUN, where that was recorded."""
    rows = read(run / "records", name="solving")
    return [row for row in rows if row.get("nfe") is not None and row.get("tolerance") is not None]


def _pictures(comparison: Comparison, folders: dict[str, Path], samples: int, say: Say) -> Pictures:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    solver, words = _solver(comparison)
    drawn: dict[str, Drawn] = {}
    notes: list[str] = []
    library = _Library(comparison, device, say)
    for run in comparison.runs:
        try:
            flow = load(run.where, device)
            if drawn and tuple(flow.shape) != next(iter(drawn.values())).samples.shape[1:]:
                raise UserError("draws images of another size")
            one = _draw(
                flow,
                facts_of(folders[run.where])["data"],
                samples,
                solver,
                say,
                f"compare: {run.name}, {words}, {device}",
            )
        except UserError as error:
            notes.append(f"{run.where}: no pictures of it ({error.what})")
            continue
        if run.weights and flow.lineage.get("weights") != run.weights:
            notes.append(f"{run.where}: its pictures are of other weights than its rows; evaluate it again")
        try:
            facts = facts_of(folders[run.where])
            one = replace(one, nearest=library.nearest(facts, one.samples))
            if "imported" in facts:
                notes.append(
                    f"{run.where}: was trained elsewhere; its nearest images are of the DATA it was measured on"
                )
        except UserError as error:
            notes.append(f"{run.where}: no nearest training images of it ({error})")
        drawn[run.name] = one
    return Pictures(drawn, TIMES, f"{words}, seed 0", notes)


def _solver(comparison: Comparison) -> tuple[dict[str, Any], str]:
    """The finest fixed budget that all runs were measured with, else midpoint with 32 evaluations; and in words."""
    common = [cell for cell in comparison.cells if cell.nfe and all(cell in run.cells for run in comparison.runs)]
    finest = max(common, key=lambda cell: (cell.nfe, tableau(cell.solver).order), default=None)
    method, nfe = (finest.solver, finest.nfe) if finest else ("midpoint", 32)
    return {"method": method, "nfe": nfe}, f"{method}, NFE {nfe}"


def _draw(flow: Flow, data: str, samples: int, solver: dict[str, Any], say: Say, who: str) -> Drawn:
    """From noise positions 0, 1, ... of seed 0, whatever the run; labels in turn, where it has classes."""
    most = max(samples, TRACED)
    y, given = torch.arange(most) % len(flow.classes) if flow.classes else None, examples(flow, data, most)

    def told(part: slice) -> dict[str, Any]:
        return {"y": None if y is None else y[part], "low": given and given.low[part]}

    say(f"{who}: {TRACED} trajectories")
    states = flow.trajectory(TRACED, TIMES, **told(slice(TRACED)), **solver)
    images = []
    for start in range(0, samples, BATCH):
        count = min(BATCH, samples - start)
        say(f"{who}: {samples} samples, {start} done")
        own = told(slice(start, start + count))
        images.append(flow.sample(count, seed=0, start=start, batch=count, **own, **solver).cpu())
    return Drawn(torch.cat(images), to_pixels(states.flatten(0, 1)).view(states.shape).cpu())


class _Known(NamedTuple):
    """A data set whose features are known: of the beginning of its training split's order, and of held-out images."""

    training: ShardedImages
    features: Tensor
    heldout: Tensor


class _Library:
    """Features of training and held-out images of each data set, found once, and what lies nearest among them."""

    def __init__(self, comparison: Comparison, device: str, say: Say) -> None:
        self.wanted = next((pair.cell.features for pair in comparison.paired if pair.cell.features), FEATURES)
        self.device, self.say = device, say
        self.known = cache(self._known)
        self.network = cache(self._network)

    def nearest(self, facts: dict[str, Any], samples: Tensor) -> Nearest:
        """The samples nearest to training images of the data that these facts of a RUN name.

        Raises: UserError if the data are gone or are others now, or no features can be loaded.
        """
        known, features = self.known(facts["data"], facts["digest"]), self.network()
        found = memorisation(features(samples), known.features, known.heldout)
        indices = order(len(known.training))[found.neighbours.flatten()]
        neighbours = torch.from_numpy(known.training.gather(indices)).permute(0, 3, 1, 2).contiguous()
        return Nearest(
            found=found,
            samples=samples[found.samples],
            neighbours=neighbours.unflatten(0, found.neighbours.shape),
            drawn=len(samples),
            training=len(known.features),
            training_total=len(known.training),
            heldout=len(known.heldout),
            features=features.name,
        )

    def _network(self) -> Features:
        try:
            return load_features(self.wanted, self.device)
        except UserError:
            return load_features(FEATURES, self.device)

    def _known(self, data: str, digest: str) -> _Known:
        training, heldout = ShardedImages(data, TRAINING), ShardedImages(data, HELDOUT)
        if training.digest != digest:
            raise UserError("holds other data now than those it was measured on", data)
        mine = self._described(training, TRAINING, TRAINING_IMAGES)
        return _Known(training, mine, self._described(heldout, HELDOUT, HELDOUT_IMAGES))

    def _described(self, dataset: ShardedImages, split: str, most: int) -> Tensor:
        """Features of the split's first images, kept for the next time, with a line of progress now and then."""
        features, count, done = self.network(), min(most, len(dataset)), 0

        def network(images: Tensor) -> Tensor:
            nonlocal done
            if done % PART < features.batch:
                self.say(f"compare: {features.name} of up to {count:,} images (split {split}), {done:,} done")
            done += len(images)
            return features.network(images)

        return described_by(replace(features, network=network), dataset, split, count)

"""What the whole comparison will cost on this machine, and whether its disk and memory hold it: said before the start.

All trainings share network and budget, so the network is measured once; they differ in how often a solver evaluates it.
"""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fm.data.preparation import sample_bytes
from fm.errors import MachineError, SettingsError, several
from fm.estimating.counting import Counted, count, h100_words
from fm.estimating.estimate import device_here, free_here, measured, title
from fm.estimating.measuring import Data, Measured, silent
from fm.estimating.parts import (
    Part,
    cell_parts,
    checkpoints,
    drawing,
    guided_parts,
    makespan,
    method_of,
    reference,
    slots,
    taken,
    training,
)
from fm.estimating.units import aligned, in_bytes, in_time
from fm.footprint import activations, check_fits, checkpoint_bytes, size
from fm.models.cost import STATED, h100_hours
from fm.objectives import objective
from fm.paper.plan import Member, Plan
from fm.recipe import Recipe
from fm.reflow import TOLERANCE


@dataclass(frozen=True)
class Cost:
    """What one training of the comparison takes: itself, and its cells without the features of real images."""

    member: Member
    training: Part
    cells: tuple[Part, ...]
    seconds: float  # of the cells on the clock, in all slots of this machine
    flops: float  # of the training

    def line(self, known: Counted) -> tuple[str, ...]:
        times = in_time(self.training.seconds), in_time(self.seconds)
        hours = taken([self.training]), taken(self.cells)
        return self.member.folder, *times, *hours, f"{h100_words(self.flops, known.precision)} to train, by FLOP"


@dataclass(frozen=True)
class PaperEstimate:
    """What the comparison will cost from its start: each training, each cell of the grid, disk and memory.

    disk: bytes with words, by folder.
    """

    found: Measured
    known: Counted
    costs: tuple[Cost, ...]
    shared: Part  # the features of real images
    disk: dict[str, tuple[int, str]]
    free_disk: int
    free_bytes: int  # of memory, for each worker

    def text(self) -> str:
        """What was measured, then aligned tables: trainings, cells of all trainings together, memory and disk."""
        names = [("", "training", "evaluation", "taken to train", "to evaluate", "")]
        trainings = [cost.line(self.known) for cost in self.costs]
        cells = [("", "in all", "", "")] + [
            (name.strip(), taken(parts), in_time(sum(part.seconds for part in parts)), _words(parts))
            for name, parts in self.by_cell().items()
        ]
        tables = aligned([*names, *trainings, self._total()]), aligned(cells), aligned(self._room())
        first = self.costs[0]
        head = f"{title(self.found, self.known.workers)}\n{first.member.folder}: {first.training.words}"
        return "\n\n".join([head, *("\n".join(table) for table in tables)])

    @property
    def values(self) -> dict[str, Any]:
        """The same for scripts."""
        members = {
            cost.member.folder: {
                "training_s": cost.training.seconds,
                "training_hours": cost.training.hours,
                "evaluation_s": cost.seconds,
                "evaluation_hours": sum(part.hours for part in cost.cells),
                "h100_hours_by_flops": h100_hours(cost.flops),
            }
            for cost in self.costs
        }
        return {
            "unit": self.shared.unit,
            "members": members,
            "cells": {name.strip(): sum(part.hours for part in parts) for name, parts in self.by_cell().items()},
            "training_hours": sum(one["training_hours"] for one in members.values()),
            "evaluation_hours": self.shared.hours + sum(one["evaluation_hours"] for one in members.values()),
            "total_s": self.seconds,
            "h100_hours_by_flops": h100_hours(sum(cost.flops for cost in self.costs)),
            "disk_bytes": {name: size for name, (size, _) in self.disk.items()},
            "free_disk_bytes": self.free_disk,
            "peak_bytes": self.found.peak_bytes,
            "free_bytes": self.free_bytes,
            "measured_s": self.found.seconds,
        }

    @property
    def seconds(self) -> float:
        """On the clock, one training after the other."""
        return self.shared.seconds + sum(cost.training.seconds + cost.seconds for cost in self.costs)

    def by_cell(self) -> dict[str, list[Part]]:
        """The parts of all evaluations, by name in the order of the work."""
        named: dict[str, list[Part]] = {self.shared.name: [self.shared]}
        for cost in self.costs:
            for part in cost.cells:
                named.setdefault(part.name, []).append(part)
        return named

    def _total(self) -> tuple[str, ...]:
        trained = [cost.training for cost in self.costs]
        times = sum(part.seconds for part in trained), self.seconds - sum(part.seconds for part in trained)
        evaluated = [self.shared, *(part for cost in self.costs for part in cost.cells)]
        words = f"{in_time(self.seconds)} one after the other, {taken([*trained, *evaluated])}; "
        words += f"{h100_words(sum(cost.flops for cost in self.costs), self.known.precision)} to train"
        return "total", *(in_time(time) for time in times), taken(trained), taken(evaluated), words

    def _room(self) -> list[tuple[str, ...]]:
        lines = [("memory", in_bytes(self.found.peak_bytes), "each worker's peak", f"{in_bytes(self.free_bytes)} free")]
        lines += [(f"disk, {name}", in_bytes(size), words, "") for name, (size, words) in self.disk.items()]
        both = sum(size for size, _ in self.disk.values())
        return [*lines, ("disk, together", in_bytes(both), "", f"{in_bytes(self.free_disk)} free")]


def _words(parts: list[Part]) -> str:
    """What a part is the product of; of several that differ, what most and least of them take."""
    words = {part.words for part in parts}
    if len(words) == 1:
        return (f"{several(len(parts), 'training')} x " if len(parts) > 1 else "") + words.pop()
    low, high = (in_time(choose(part.seconds for part in parts)) for choose in (min, max))
    return f"{several(len(parts), 'training')}, {low} to {high} each by the evaluations assumed of its method"


def published(plan: Plan) -> tuple[Data, tuple[int, str]]:
    """What stands for the published pictures, and the bytes of their shards, with their words.

    Raises: SettingsError where no counts are published.
    """
    of, settings = plan.dataset, plan.recipe.data
    if not of.counts:
        raise SettingsError(f"{of.title} has no published counts to estimate by", "--source", f"name {of.hint}")
    images = sum(of.counts.values())
    size = images * sample_bytes(settings), f"{images:,} published pictures"
    return Data("", of.counts["train"], settings.shape, of.classes, settings.low_size), size


def counted(plan: Plan, data: Data, workers: int) -> tuple[Counted, str]:
    """What follows without a measurement: of one training, and in words that end with all of them."""
    known = count(plan.recipe, data, workers)
    lines = []
    for method in dict.fromkeys(member.method for member in plan.members):
        own = [known.flops * _dearer(plan, member) for member in plan.members if member.method == method]
        lines.append((method.title, h100_words(sum(own), known.precision), several(len(own), "seed")))
    flops = sum(known.flops * _dearer(plan, member) for member in plan.members)
    trainings = several(len(plan.members), "training")
    words = f"{trainings}, {flops:.1e} FLOP at {STATED}"
    lines.append(("total to train", h100_words(flops, known.precision), words))
    return known, "\n".join([known.text(), "", *aligned(lines)])


def estimate_paper(
    plan: Plan,
    data: Data,
    known: Counted,
    out: Path,
    disk: dict[str, tuple[int, str]],
    say: Callable[[str], None] = silent,
) -> PaperEstimate:
    """All trainings and evaluations from their start, their RUNs in the folder `out`; `disk` are bytes besides them,
    with words, by name; `known` is what `counted` gave. `say` is told of each part that is measured, as it begins.

    Raises: SettingsError before anything is measured if a training does not suit this machine, with what would.
    """
    found = measured(plan.recipe, data, known, say)
    costs = tuple(_cost(plan, member, found, data, known) for member in plan.members)
    settings = plan.recipe.training
    one, kept = checkpoint_bytes(known.parameters, settings), len(_final(plan.recipe))
    words = f"{several(len(costs), 'training')} x {several(kept, 'checkpoint')} of {in_bytes(one)}"
    return PaperEstimate(
        found,
        known,
        costs,
        reference(plan.recipe.evaluation, found, data),
        {"OUT": (one * kept * len(costs), words), **disk},
        _free_disk(out),
        free_here(known.workers),
    )


def _dearer(plan: Plan, member: Member) -> float:
    """What a step of a member's training costs by FLOP, as a multiple of one of the recipe that is measured."""
    own, shared = (objective(recipe.objective)(recipe.path).passes for recipe in (member.recipe, plan.recipe))
    return own / shared


def _cost(plan: Plan, member: Member, found: Measured, data: Data, known: Counted) -> Cost:
    name, dearer = method_of(member.recipe, data.shape), _dearer(plan, member)
    trained, images = training(member.recipe, found, known.workers, found.step_s * dearer, name)
    parts = cell_parts(member.recipe, found, name, images) + guided_parts(member.recipe, member.guided, found, name)
    if member.method.drawn_by:
        parts.append(drawing(data.images, TOLERANCE, found, name))
    seconds = makespan((part.seconds for part in parts), slots(found))
    return Cost(member, trained, tuple(parts), seconds, known.flops * dearer)


def check_time(found: PaperEstimate, hours: float) -> None:
    """Raises: MachineError if the comparison would take longer than so many hours on this machine."""
    if found.seconds > 3600 * hours:
        what = f"the comparison would take {in_time(found.seconds)} on this machine, more than {hours:g} h"
        mend = "allow more, or take fewer --methods or --seeds, a smaller --scale, or a faster machine"
        raise MachineError(what, "--hours", mend)


def check_room(plan: Plan, out: Path, workers: int) -> None:
    """Whether disk and memory hold what the comparison still has to write, and a training; nothing is measured.

    workers: on this machine, none where they are elsewhere, and say themselves what their memory holds.

    Raises: MachineError with the bytes that are due and free; SettingsError if a training does not suit this machine.
    """
    settings, shape = plan.recipe.training, plan.recipe.data.shape
    with torch.device("meta"):
        model, _ = plan.recipe.build(shape, None)
        if workers:
            check_fits(size(model), activations(model, shape), settings, workers, device_here(), free_here(workers))
    one, missing = checkpoint_bytes(size(model), settings), sum(map(partial(_missing, out), plan.members))
    due, free = one * missing, _free_disk(out)
    if due > free:
        what = f"{due:,} bytes are due ({several(missing, 'checkpoint')} of {one:,} bytes), {free:,} are free"
        mend = "take a folder on a larger disk, fewer --methods or --seeds, or a larger training.keep_every_images"
        raise MachineError(what, str(out), mend)


def _missing(out: Path, member: Member) -> int:
    """Checkpoints that a training has still to write; while it does, the one before its last is there too."""
    there = {folder.name for folder in (out / member.folder / "checkpoints").glob("[0-9]*")}
    final = [f"{images:012d}" for images in _final(member.recipe)]
    return 0 if final[-1] in there else 1 + len({*final} - there)


def _final(recipe: Recipe) -> list[int]:
    """The checkpoints of a whole training."""
    batch = recipe.training.batch_images
    return checkpoints(recipe.training, math.ceil(recipe.training.total_images / batch) * batch)


def _free_disk(out: Path) -> int:
    """Bytes for a folder that need not be there yet."""
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free

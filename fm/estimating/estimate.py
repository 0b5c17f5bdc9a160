"""From what was measured to what a whole run costs: time and core-hours of each part, memory, disk; as a table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fm.data import Manifest, Preparation, Source
from fm.data.preparation import sample_bytes
from fm.errors import DataError, several
from fm.estimating.counting import Counted
from fm.estimating.measuring import Data, Measured, measure, silent
from fm.estimating.parts import Part, checkpoints, disturbed, evaluation, method_of, taken, training
from fm.estimating.units import aligned, in_bytes, in_time
from fm.footprint import at_once, check_fits, checkpoint_bytes, footprint, free_bytes, workers_here
from fm.recipe import Recipe


@dataclass(frozen=True)
class Estimate:
    """What a run will cost: parts in the order of the work, memory of a worker, bytes on disk by folder.

    `totals` are training and evaluation together, by what they hold for: the machine as it is, or an idle one.
    """

    title: str
    parts: tuple[Part, ...]
    totals: Mapping[str, tuple[Part, ...]]
    peak_bytes: int
    free_bytes: int
    memory: str
    disk: dict[str, tuple[int, str]]
    values: dict[str, Any]

    def text(self) -> str:
        """An aligned table."""
        lines = [("", "time", "taken", "")]
        lines += [(p.name, in_time(p.seconds), taken([p]), p.words) for p in self.parts]
        for name, parts in self.totals.items():
            words = " + ".join(f"{part.name} {in_time(part.seconds)}" for part in parts)
            lines.append((name, in_time(sum(part.seconds for part in parts)), taken(parts), words))
        lines.append(("memory", in_bytes(self.peak_bytes), f"{in_bytes(self.free_bytes)} free", self.memory))
        lines += [(f"disk, {name}", in_bytes(size), "", words) for name, (size, words) in self.disk.items()]
        return "\n".join([self.title, *aligned(lines)])


def estimate(
    recipe: Recipe,
    data: Data,
    known: Counted,
    disk: dict[str, tuple[int, str]],
    say: Callable[[str], None] = silent,
) -> Estimate:
    """The whole training and evaluation of the recipe, from its start; `disk` are bytes of folders besides RUN.

    `say` is told of each part that is measured, as it begins.

    Raises: SettingsError before anything is measured if the training does not suit this machine, with what would; as
    the work itself does.
    """
    workers, settings = known.workers, recipe.training
    found = measured(recipe, data, known, say)
    held, method = found.footprint, method_of(recipe, data.shape)
    trained, images = training(recipe, found, workers, found.step_s, method)
    evaluated = evaluation(recipe, found, data, method, images)
    totals = {"total": (trained, evaluated[0])}
    if disturbed(recipe, found):
        idle, _ = training(recipe, found, workers, found.step_cpu_s / settings.threads, method)
        totals["on an idle machine"] = (idle, evaluated[0])
    free = free_here(workers)
    parts = {name: getattr(held, name) for name in ("weights", "gradients", "optimiser", "averages")}
    memory = ", ".join(f"{name} {in_bytes(size)}" for name, size in parts.items())
    memory += f", {in_bytes(held.image)} an image, {at_once(settings, workers):,} at once"
    checkpoint, kept = checkpoint_bytes(known.parameters, settings), len(checkpoints(settings, images))
    disk = {"RUN": (checkpoint * kept, f"{several(kept, 'checkpoint')} of {in_bytes(checkpoint)}"), **disk}
    return Estimate(
        title(found, workers),
        (trained, *evaluated),
        totals,
        found.peak_bytes,
        free,
        f"each worker's peak; {memory}",
        disk,
        {
            "training_s": trained.seconds,
            "training_hours": trained.hours,
            "evaluation_s": evaluated[0].seconds,
            "evaluation_hours": evaluated[0].hours,
            "training_unit": trained.unit,
            "evaluation_unit": evaluated[0].unit,
            "total_s": {name: sum(part.seconds for part in both) for name, both in totals.items()},
            "images": images,
            "step_s": found.step_s,
            "step_cpu_s": found.step_cpu_s,
            "sample_evaluation_s": found.sample_s,
            "likelihood_evaluation_s": found.likelihood_s,
            "peak_bytes": found.peak_bytes,
            **{f"{name}_bytes": size for name, size in parts.items()},
            "image_bytes": held.image,
            "images_at_once": at_once(settings, workers),
            "free_bytes": free,
            "disk_bytes": {name: size for name, (size, _) in disk.items()},
            "parts": {part.name: {"seconds": part.seconds, "hours": part.hours} for part in evaluated[1:]},
            "measured_s": found.seconds,
        },
    )


def measured(recipe: Recipe, data: Data, known: Counted, say: Callable[[str], None] = silent) -> Measured:
    """What the recipe's steps and evaluations take here.

    Raises: as `estimate`.
    """
    workers, settings = known.workers, recipe.training
    check_fits(known.parameters, known.held, settings, workers, device_here(), free_here(workers))
    held = footprint(known.parameters, settings, workers, known.held.of(settings))
    return measure(recipe, data, workers, held, say)


def title(found: Measured, workers: int) -> str:
    """Where and for how long it was measured."""
    some = f", {found.processes} of {several(workers, 'worker')} at work" if found.processes < workers else ""
    return f"measured in {found.seconds:.0f} s on {found.device}{some}; nothing was trained or written"


def device_here() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def free_here(workers: int) -> int:
    """Bytes of memory for each of so many workers, on the device that this machine trains on."""
    return free_bytes(device_here(), workers_here(workers))


def of_folder(folder: str, manifest: Manifest) -> Data:
    """A prepared data set.

    Raises: DataError if it holds nothing to train on.
    """
    if "train" not in manifest.splits:
        raise DataError("no training images", folder, "prepare it anew, from more pictures")
    return Data(
        folder, manifest.splits["train"].images, manifest.shape, len(manifest.classes), manifest.settings.low_size
    )


def of_source(source: Source, settings: Preparation) -> tuple[Data, tuple[int, str]]:
    """What stands for a source that is not prepared yet, and the bytes of its shards, with their words.

    Raises: DataError if the source cannot be listed.
    """
    items = source.items()
    labels = {item.label for item in items if item.label is not None}
    images = max(1, len(items))
    size = images * sample_bytes(settings)
    words = f"{images:,} pictures" + (" as PNG" if settings.encoding == "png" else "")
    return Data("", images, settings.shape, len(labels), settings.low_size), (size, words)

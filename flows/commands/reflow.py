"""`fm reflow`: a trained network draws, and another one learns its pairs of noise and image."""

import os
from typing import Annotated

import typer

from flows.commands.answered import summarised
from flows.commands.asked import (
    Address,
    AsJson,
    Changes,
    FewestWorkers,
    Gpus,
    PortBase,
    RunFolder,
    Workers,
    existing,
    is_address,
    look,
    place,
    trainable,
)
from flows.commands.stages import flow, services
from fm.errors import SettingsError


def reflow(
    teacher: Annotated[str, typer.Argument(metavar="TEACHER", help="Folder of the training whose network draws.")],
    run: RunFolder,
    images: Annotated[
        int | None, typer.Option(help="How many are drawn. Default: as many as there are training images.")
    ] = None,
    begin: Annotated[str, typer.Option(help="run: with TEACHER's weights; scratch: with fresh ones.")] = "run",
    tolerance: Annotated[float, typer.Option(help="rtol = atol of dopri5, which draws.")] = 1e-4,
    changes: Changes = None,
    address: Address = "",
    workers: Workers = 2,
    fewest_workers: FewestWorkers = 0,
    gpus: Gpus = "auto",
    port_base: PortBase = None,
    as_json: AsJson = False,
) -> None:
    """Reflow (Liu and others, 2023): RUN is trained on noises and what TEACHER draws from them; it needs fewer steps.

    The recipe is TEACHER's. RUN is judged by the same real images. Started again it continues.
    """
    existing(teacher)
    if not is_address(run) and os.path.realpath(run) == os.path.realpath(teacher):
        raise SettingsError("is the training that draws", str(run), "give another folder for the one that learns of it")
    if begin not in ("run", "scratch"):
        raise SettingsError(f"{begin!r} is nothing to begin with", "--begin", "take run or scratch")
    for what, value, low, high in (("--images", images, 20, 100_000_000), ("--tolerance", tolerance, 1e-9, 1.0)):
        if value is not None and not low <= value <= high:
            raise SettingsError(f"{value:g} is out of range", what, f"give {low} to {high:,}")
    from fm.recipe import Recipe
    from fm.reflow import student

    any_weights = "0" * 64  # the flow looks for the newest
    recipe, _ = student(Recipe.load(teacher), teacher, any_weights, images or 20, begin, tolerance, changes or ())  # type: ignore[arg-type]
    recipe.check(workers, fewest_workers)
    look(port_base, run)
    trainable(run)
    where = place(address, workers, fewest_workers=fewest_workers, gpus=gpus)
    asked = (teacher, run, images, begin, tolerance, tuple(changes or ()))
    with services(port_base, address):
        summarised(lambda: flow("reflow", "reflow")(*asked, where), run, as_json)

"""`fm ema`: which length of the weights' average draws best, chosen when the training is over."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.asked import (
    Address,
    AsJson,
    Gpus,
    GuidanceInterval,
    Guide,
    PortBase,
    RunFolder,
    Workers,
    existing,
    is_address,
    look,
    place,
    recipe_of,
)
from flows.commands.evaluating import guidances, measurements
from flows.commands.stages import flow, services
from fm.errors import SettingsError


def ema(
    run: RunFolder,
    lengths: Annotated[
        str, typer.Option(help="Of the averages, as shares of the training, below 0.288. Default: 0.02 to 0.2.")
    ] = "",
    solvers: Annotated[str, typer.Option(help="Solvers that each is measured with.")] = "midpoint",
    nfe: Annotated[str, typer.Option(help="Network evaluations for each with fixed steps.")] = "16",
    tolerances: Annotated[str, typer.Option(help="Tolerances for each adaptive one, e.g. 1e-3.")] = "",
    guidance: Annotated[str, typer.Option(help="Strengths of guidance for each, e.g. 0,1,2: 0 is none.")] = "",
    interval: GuidanceInterval = "",
    guide: Guide = None,
    samples: Annotated[int | None, typer.Option(min=20, help="Samples for each. Default: the recipe's.")] = None,
    address: Address = "",
    workers: Workers = 2,
    gpus: Gpus = "auto",
    port_base: PortBase = None,
    as_json: AsJson = False,
) -> None:
    """Choose the length of the weights' average after the training (post-hoc EMA, Karras et al. 2024).

    RUN was trained with training.ema_lengths, such as [0.05, 0.1], and keep_every_images: averages of any length are
    made of those, each a network of its own in RUN/averages, and measured on the same noise.
    """
    try:
        wanted = tuple(float(word) for word in lengths.split(",") if word)
    except ValueError:
        raise SettingsError(f"{lengths!r} is not a list of numbers", "--lengths", "for example 0.05,0.1") from None
    if not all(0 < length < 0.288 for length in wanted):
        raise SettingsError(f"{lengths} are not all above 0 and below 0.288", "--lengths", "for example 0.05,0.1")
    if is_address(run):
        raise SettingsError("is at an address, and averages are made in a folder", run, "copy it into one")
    folder = existing(run)
    if guide:
        from fm.recipe import check_guide

        check_guide(folder, existing(guide))
    look(port_base, run)
    points = measurements(solvers, nfe, tolerances, "joint", guidances(guidance, interval), samples=samples)
    points += ["evaluation.along=none", "evaluation.nll_images=0", "evaluation.nll_training_images=0"]
    points += ["evaluation.error_images=0", f"evaluation.guide={json.dumps(guide) if guide else 'none'}"]
    recipe = recipe_of(folder, points)
    from fm.checkpoints import newest
    from fm.posthoc import planned

    if last := newest(folder):
        planned(folder, last, wanted)
    with services(port_base, address):
        where = place(address, workers, gpus=gpus)
        _tell(Path(flow("averages", "averages")(run, wanted, recipe.evaluation, where)), as_json)


def _tell(page: Path, as_json: bool) -> None:
    """The table, from the file beside the page."""
    from fm.files import read_json
    from fm.results import aligned

    found = read_json(page.parent / "report" / "sweep.json")
    if as_json:
        typer.echo(json.dumps({"report": str(page), **found}))
        return
    typer.echo(f"\n{aligned(found['table'])}\n{found['note']}\n\nreport: {page.resolve().as_uri()}")

"""`fm superres`: super-resolution by each method on the same pairs, one command for a data set."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.answered import estimate_paper
from flows.commands.asked import (
    Address,
    AsJson,
    Changes,
    Comparing,
    DifferentData,
    Estimating,
    FewestWorkers,
    Gpus,
    PortBase,
    Seeds,
    Workers,
    look,
    place,
)
from flows.commands.papers import check_comparison, compared
from flows.commands.stages import flow, services
from fm.errors import member


def superres(
    dataset: Annotated[
        str, typer.Option(help="photos or emoji64: 16 to 64 px in minutes on two cores; imagenet: 64 to 256 px.")
    ],
    out: Annotated[
        str, typer.Argument(metavar="[OUT]", help="Folder of the comparison. Default: runs/superres-DATASET.")
    ] = "",
    source: Comparing = "",
    seeds: Seeds = 1,
    methods: Annotated[str, typer.Option(help="Some methods alone: regression,sr3,fm-ot. Default: all.")] = "",
    allow_different_data: DifferentData = False,
    changes: Changes = None,
    address: Address = "",
    workers: Workers = 2,
    fewest_workers: FewestWorkers = 0,
    gpus: Gpus = "auto",
    port_base: PortBase = None,
    as_json: AsJson = False,
    estimate: Estimating = False,
) -> None:
    """Super-resolution by flow matching, by an SR3-style diffusion and by regression, trained and measured alike.

    Started again it continues. `fm sample RUN --low PICTURE` then enlarges pictures with one of its trainings.
    """
    from fm.superres.plan import DATASETS, planned

    of = member(dataset, DATASETS, "data set", where="--dataset")
    chosen = tuple(key.strip() for key in methods.split(",") if key.strip())
    source = source or of.source
    check_comparison(of, source, out, estimate)
    plan = planned(dataset, seeds, chosen, changes or ())
    out = out or f"runs/superres-{dataset}"
    if estimate:
        return estimate_paper(plan, source, out, workers, as_json)
    for one in plan.members:
        one.recipe.check(workers, fewest_workers)
    look(port_base, out, "" if (Path(source) / "manifest.json").exists() else source)
    where = place(address, workers, fewest_workers=fewest_workers, gpus=gpus)
    asked = (dataset, out, source, seeds, chosen, tuple(changes or ()), allow_different_data)
    with services(port_base, address):
        compared(lambda: flow("superres", "superres")(*asked, where), out, as_json)

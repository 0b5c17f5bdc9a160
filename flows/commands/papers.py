"""`fm paper`: the paper's comparison of methods, one command for a data set and a scale."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.answered import estimate_paper, paper_estimate
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
    is_address,
    look,
    place,
)
from flows.commands.stages import flow, services
from fm.errors import SettingsError, Unfinished
from fm.paper.methods import DataSet, known


def paper(
    dataset: Annotated[str, typer.Option(help="cifar10, imagenet32, imagenet64, imagenet128, emoji64 or photos.")],
    out: Annotated[
        str, typer.Argument(metavar="[OUT]", help="Folder of the comparison. Default: runs/paper-DATASET-SCALE.")
    ] = "",
    scale: Annotated[
        str,
        typer.Option(
            help="mini: minutes a training on two cores; full: the data set's own preset (the paper's recipe)."
        ),
    ] = "mini",
    source: Comparing = "",
    seeds: Seeds = 2,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Some alone, by key: fm-ot,fm-vp,ddpm, ...; with --beyond fm-ot,skewed,mean-flow, ... Default: all."
        ),
    ] = None,
    beyond: Annotated[
        bool, typer.Option("--beyond", help="What came after the paper beside FM w/ OT, in one table, instead.")
    ] = False,
    allow_different_data: DifferentData = False,
    changes: Changes = None,
    address: Address = "",
    workers: Workers = 2,
    fewest_workers: FewestWorkers = 0,
    gpus: Gpus = "auto",
    port_base: PortBase = None,
    as_json: AsJson = False,
    estimate: Estimating = False,
    hours: Annotated[
        float | None,
        typer.Option(min=0, help="Refuse a new comparison that would take longer here, by the estimate's measurement."),
    ] = None,
) -> None:
    """The paper's Table 1, sweeps and claims on a data set: every method trained and measured alike, seed by seed.

    Started again it continues. A method that fails is said, ends the command with 1, and leaves the others be.
    """
    chosen = tuple(key.strip() for key in (methods or "").split(",") if key.strip())
    if methods is not None and not chosen:  # as of a shell's variable that is not set
        raise SettingsError("names none", "--methods", "leave it out for all of them")
    of = known(dataset, scale, () if beyond else chosen)
    source = source or of.source
    check_comparison(of, source, out, estimate)
    if beyond:
        from fm.beyond.plan import planned
    else:
        from fm.paper.plan import planned

    plan = planned(dataset, scale, seeds, chosen, changes or ())
    out = out or f"runs/{'beyond' if beyond else 'paper'}-{plan.name}"
    if estimate:
        return estimate_paper(plan, source, out, workers, as_json)
    for member in plan.members:
        member.recipe.check(workers, fewest_workers)
    look(port_base, out, "" if (Path(source) / "manifest.json").exists() else source)
    if hours is not None and not Path(out).exists():
        from fm.paper.estimating import check_time

        check_time(paper_estimate(plan, source, out, workers, lambda words: None)[1], hours)
    where = place(address, workers, fewest_workers=fewest_workers, gpus=gpus)
    asked = (dataset, out, source, scale, seeds, chosen, tuple(changes or ()), allow_different_data, beyond)
    with services(port_base, address):
        compared(lambda: flow("paper", "paper")(*asked, where), out, as_json)


def check_comparison(of: DataSet, source: str, out: str, estimate: bool = False) -> None:
    """Raises: SettingsError where a comparison has no pictures, or is to lie at an address; published ones need not be
    there to estimate it."""
    if not source and not (estimate and of.counts):
        mend = f"name its pictures: {of.hint}, or a folder that `fm prepare` filled"
        raise SettingsError(f"is missing, for {of.title} does not come with this project", "--source", mend)
    if is_address(out):
        raise SettingsError("is an address, and a comparison lies in a folder", out, "give a folder that all nodes see")


def compared(run: Callable[[], str], out: str, as_json: bool) -> None:
    """Runs the flow of a comparison and tells what came of it, also where it lacks something."""
    try:
        page = Path(run())
    except Unfinished:
        _tell(Path(out) / "report.html", as_json)
        raise
    _tell(page, as_json)


def _tell(page: Path, as_json: bool) -> None:
    """The table and the verdicts, from the files beside the page."""
    from fm.files import read_json
    from fm.results import aligned

    found: dict[str, Any] = read_json(page.parent / "report" / "claims.json")
    if as_json:
        typer.echo(json.dumps({"report": str(page), **found}))
        return
    typer.echo("\n".join(["", *found.get("cautions", ()), aligned(found["table"]), found["note"], ""]))
    for claim in found["claims"]:
        typer.echo(f"{claim['verdict']:<12}  {claim['says']}")
    typer.echo(f"\nreport: {page.resolve().as_uri()}")

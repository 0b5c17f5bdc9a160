"""`fm`: parse, call, print. Decides nothing; heavy libraries are imported inside the commands."""

import os
import sys
from importlib import metadata
from typing import Annotated

import typer

from flows.commands import (
    averages,
    comparing,
    evaluating,
    housekeeping,
    machine,
    models,
    papers,
    reflow,
    runs,
    settings,
    stages,
    superres,
)
from flows.commands.asked import state
from fm.errors import Unfinished, UserError
from infra.services import caches

app = typer.Typer(
    name="fm",
    help="Trains and judges flow-matching image models, from raw pictures to a report, run as workflows.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

for command, example in (
    (stages.demo, "fm demo"),
    (stages.demo2d, "fm demo2d runs/demo2d --data two_moons --data eight_gaussians"),
    (stages.pipeline, "fm pipeline my-pictures runs/mine --preset demo --set training.max_seconds=600"),
    (stages.prepare, "fm prepare my-pictures data/mine --size 64 --method center-crop"),
    (stages.train, "fm train data/mine runs/mine --preset demo --set training.total_images=200000"),
    (evaluating.evaluate, "fm evaluate runs/mine --solvers euler,midpoint --nfe 4,8,16 --samples 500"),
    (averages.ema, "fm ema runs/mine --lengths 0.03,0.05,0.1 --nfe 16"),
    (comparing.compare, "fm compare runs/ot runs/vp --out runs/ot-vp"),
    (papers.paper, "fm paper --dataset photos --scale mini"),
    (superres.superres, "fm superres --dataset photos"),
    (reflow.reflow, "fm reflow runs/demo runs/demo-reflow"),
    (models.retrain, "fm retrain data/mine --model photos --set training.total_images=200000"),
    (models.promote, "fm promote runs/mine --model photos"),
    (models.rollback, "fm rollback photos"),
    (runs.sample, "fm sample runs/demo --n 64 --out grid.png --solver midpoint --nfe 16"),
    (runs.import_, "fm import otcfm_cifar10_weights_step_400000.pt runs/otcfm"),
    (housekeeping.gc, "fm gc runs/demo --keep 2, or: fm gc cache --older-than 30 --yes"),
    (settings.settings, "fm settings training --preset cifar10"),
    (machine.up, "fm up --port-base 24000"),
    (machine.down, "fm down"),
    (machine.status, "fm status, or: fm status runs/demo"),
    (machine.logs, "fm logs prefect --lines 50"),
    (machine.doctor, "fm doctor --metrics"),
):
    app.command(command.__name__.rstrip("_"), epilog=f"Example: {example}")(command)


@app.callback(invoke_without_command=True)
def told(version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False) -> None:
    if version:
        typer.echo(f"fm {metadata.version('flow-matching-pipeline')}")
        raise typer.Exit


def main() -> None:
    """Runs `fm`; a user's error is one line on stderr and exit code 2, or 1 where a part of the work is done."""
    os.environ.update(caches(state().resolve()))
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, Unfinished) else 2)


if __name__ == "__main__":
    main()

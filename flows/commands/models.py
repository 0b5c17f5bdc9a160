"""The commands of the registry: `fm retrain`, `fm promote`, `fm rollback`."""

from typing import Annotated

import typer

from flows.commands.answered import tell
from flows.commands.asked import (
    Address,
    AsJson,
    Changes,
    Data,
    FewestWorkers,
    Gpus,
    PortBase,
    RunFolder,
    Workers,
    existing,
    look,
    place,
)
from flows.commands.stages import flow, services
from fm import presets
from fm.errors import SettingsError
from fm.files import check_name

Model = Annotated[str, typer.Option("--model", help="Name of the model in MLflow's registry, new or with a champion.")]


def retrain(
    data: Data,
    model: Model,
    runs: Annotated[str, typer.Option(help="Folder in which each challenger gets a RUN of its own.")] = "runs/retrain",
    begin: Annotated[
        str, typer.Option(help="champion: train its weights further; scratch: fresh weights, the champion's recipe.")
    ] = "champion",
    preset: Annotated[
        str, typer.Option(help=f"Recipe where there is no champion yet ({', '.join(presets.names())}), or a file.")
    ] = "demo",
    changes: Changes = None,
    address: Address = "",
    workers: Workers = 2,
    fewest_workers: FewestWorkers = 0,
    gpus: Gpus = "auto",
    port_base: PortBase = None,
    as_json: AsJson = False,
) -> None:
    """Train a challenger on DATA as they are now; it becomes champion only if it is better beyond the uncertainty.

    Champion and challenger are measured on the same held-out images from the same noise. A challenger that is not
    better is kept in the registry too, refused, with its numbers.
    """
    from fm.data import load_manifest

    check_name(model, "a model")
    if begin not in ("champion", "scratch"):
        raise SettingsError(f"{begin!r} is nothing to begin with", "--begin", "take champion or scratch")
    load_manifest(data)
    look(port_base, runs)
    where = place(address, workers, fewest_workers=fewest_workers, gpus=gpus)
    with services(port_base, address):
        made = flow("retrain", "retrain")(model, data, runs, begin, preset, changes=tuple(changes or ()), place=where)
        tell(made, as_json)


def promote(
    run: RunFolder, model: Model, address: Address = "", port_base: PortBase = None, as_json: AsJson = False
) -> None:
    """Judge a trained RUN against the champion, and make it the champion if it is better beyond the uncertainty."""
    check_name(model, "a model")
    existing(run)
    look(port_base, run)
    with services(port_base, address):
        tell(flow("retrain", "promote")(run, model, place(address, 1)), as_json)


def rollback(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model in MLflow's registry.")],
    port_base: PortBase = None,
    as_json: AsJson = False,
) -> None:
    """Make the version champion again that the present one replaced."""
    check_name(model, "a model")
    with services(port_base):
        from tasks import registry

        before, now = registry.rollback(model)
    tell({"model": model, "was": before.number, "champion": now.number, "weights": now.weights}, as_json)

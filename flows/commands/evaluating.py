"""`fm evaluate`: what a trained network is measured by, as options; pictures alone; one row once more."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.answered import summarised, tell
from flows.commands.asked import (
    Address,
    AsJson,
    Changes,
    Gpus,
    GuidanceInterval,
    Guide,
    PortBase,
    Workers,
    device_of,
    existing,
    look,
    place,
    recipe_of,
)
from flows.commands.runs import interval_of
from flows.commands.stages import flow, services
from fm.errors import SettingsError, Unfinished

ONE = "Of the three, RUN, --images FOLDER DATA and --rerun ROW, name one."


def evaluate(
    context: typer.Context,
    run: Annotated[
        str, typer.Argument(metavar="[RUN]", help="A training, folder or address; of --images the prepared DATA.")
    ] = "",
    data: Annotated[
        str, typer.Argument(metavar="[DATA]", help="Its data, folder or address: if moved, or of an imported RUN.")
    ] = "",
    solvers: Annotated[str, typer.Option(help="Solvers, e.g. euler,midpoint,rk4,dopri5. Default: the recipe's.")] = "",
    nfe: Annotated[str, typer.Option(help="Network evaluations for each with fixed steps, e.g. 4,8,16.")] = "",
    tolerances: Annotated[str, typer.Option(help="Tolerances for each adaptive one, e.g. 1e-3,1e-5.")] = "",
    control: Annotated[
        str, typer.Option(help="Of adaptive ones: joint (a batch shares its steps), per_sample, or joint,per_sample.")
    ] = "joint",
    grids: Annotated[
        str,
        typer.Option(help="Time grids for each with fixed steps, e.g. uniform,edm,optimised. Default: its own."),
    ] = "",
    guidance: Annotated[
        str, typer.Option(help="Strengths of guidance for each, e.g. 0,1,2: 0 is none. Of a class-conditional network.")
    ] = "",
    interval: GuidanceInterval = "",
    guide: Guide = None,
    samples: Annotated[int | None, typer.Option(min=20, help="Samples for each cell.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Measure each cell so many times, from other noise.")] = None,
    nll_k: Annotated[int | None, typer.Option(min=1, help="Dequantisation draws for each image.")] = None,
    probe: Annotated[
        str, typer.Option(help="per_image, or both: beside it bits/dim with a fresh probe for each draw.")
    ] = "",
    training_images: Annotated[
        int | None, typer.Option(min=0, help="Training images for bits/dim: the generalisation gap.")
    ] = None,
    error_images: Annotated[
        int | None, typer.Option(min=0, help="Samples to measure the solver's own error on, e.g. 64.")
    ] = None,
    images: Annotated[
        str, typer.Option("--images", help="Score these pictures, a folder or archive, against DATA; no network.")
    ] = "",
    reference: Annotated[str, typer.Option(help="Of --images: heldout or training, what they are compared with.")] = "",
    rerun: Annotated[
        list[Path] | None,
        typer.Option(
            help="Rows, RUN/evaluations/KEY.json, or all of them, RUN/evaluations: measure again and compare."
        ),
    ] = None,
    changes: Changes = None,
    address: Address = "",
    workers: Workers = 2,
    gpus: Gpus = "auto",
    port_base: PortBase = None,
    as_json: AsJson = False,
) -> None:
    """Measure a trained network at several solvers and budgets, in parallel, and write its report.

    The report shows these cells; rows measured before stay in RUN/evaluations. A failed cell is said, ends the command
    with 1, and is all that the same command measures the next time.
    """
    for change in changes or []:
        if not change.startswith("evaluation."):
            mend = "only evaluation.* may change after the training"
            raise SettingsError("changes the training", f"--set {change}", mend)
    if sum(map(bool, (images, rerun, run if not images else ""))) != 1:
        raise SettingsError("either is missing or one too many", "RUN, --images, --rerun", ONE)
    if images or rerun:
        _check_alone(context, "images" if images else "rerun")
    elif reference:
        raise SettingsError("goes with --images", "--reference")
    if images:
        return _score(images, run, reference, samples, changes, as_json)
    if rerun:
        return _again(rerun, place(address, workers, gpus=gpus), port_base, address, as_json)
    folder = existing(run)
    if guide:
        from fm.recipe import check_guide

        check_guide(folder, existing(guide))
    look(port_base, run)
    wanted = {
        "samples": samples,
        "seeds": seeds,
        "nll_k": nll_k,
        "nll_probe": json.dumps(probe) if probe else None,
        "nll_training_images": training_images,
        "error_images": error_images,
        "guide": json.dumps(guide) if guide else None,
    }
    points = measurements(solvers, nfe, tolerances, control, guidances(guidance, interval), grids, **wanted)
    recipe = recipe_of(folder, [*(changes or []), *points])
    with services(port_base, address):
        where = place(address, workers, gpus=gpus)
        summarised(lambda: flow("evaluate", "evaluate_run")(run, data, recipe.evaluation, where), run, as_json)


ALONE = {
    "images": {"images", "run", "reference", "samples", "changes", "as_json"},
    "rerun": {"rerun", "address", "workers", "gpus", "port_base", "as_json"},
}


def _check_alone(context: typer.Context, option: str) -> None:
    """Raises: SettingsError for an option that changes nothing beside this one."""
    given = [name for name in context.params if _given(context, name) and name not in ALONE[option]]
    if given:
        words = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise SettingsError(f"takes no {words}", f"--{option}", "leave out what changes nothing")


def _given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _score(
    images: str, data: str, reference: str, samples: int | None, changes: list[str] | None, as_json: bool
) -> None:
    if not data:
        mend = "for example: fm evaluate --images my-samples data/mine"
        raise SettingsError("is missing", "DATA", mend)
    splits = {"": "test", "heldout": "test", "training": "train"}
    if reference not in splits:
        raise SettingsError(f"{reference!r} is neither heldout nor training", "--reference")
    from fm.data import load_manifest, open_source

    load_manifest(data)
    source = open_source(images)
    from fm.metrics import load_features
    from fm.presets import for_size
    from fm.recipe import Recipe
    from fm.results import table_note, text_table
    from fm.scoring import score_pictures

    unknown = [c for c in changes or [] if not c.startswith(("evaluation.features=", "evaluation.distances="))]
    if unknown:
        raise SettingsError(
            "changes nothing of --images", f"--set {unknown[0]}", "evaluation.features and .distances do"
        )
    settings = Recipe.load(for_size(32), changes or ()).evaluation
    features = load_features(settings.features, device_of("auto"))
    row = score_pictures(source, data, features, settings.distances, splits[reference], samples)
    typer.echo(json.dumps(row) if as_json else f"{text_table([row])}\n{table_note([row])}")


def _again(named: list[Path], where: object, port_base: int | None, address: str, as_json: bool) -> None:
    runs = dict[Path, list[str]]()
    for name in named:
        rows = sorted(name.glob("*.json")) if name.name == "evaluations" else [name]
        if not rows or not all(row.is_file() and row.parent.name == "evaluations" for row in rows):
            mend = "name a file of RUN/evaluations, as `--rerun runs/mine/evaluations/KEY.json`, or that folder"
            raise SettingsError("is no row", str(name), mend)
        run = existing(str(rows[0].resolve().parent.parent))
        look(port_base, run)
        runs.setdefault(run, []).extend(row.stem for row in rows)
    differing = list[Unfinished]()
    with services(port_base, address):
        for run, keys in runs.items():
            try:
                tell(flow("evaluate", "rerun")(str(run), tuple(dict.fromkeys(keys)), where), as_json)
            except Unfinished as error:
                differing.append(error)
    if differing:
        first = differing[0]
        what = f"rows of {len(differing)} of {len(runs)} trainings differ; of the first one, {first.what}"
        raise first if len(runs) == 1 else Unfinished(what, first.where, first.mend)


def measurements(
    solvers: str,
    nfe: str,
    tolerances: str = "",
    control: str = "joint",
    guided: Sequence[str] = ("",),
    grids: str = "",
    **values: int | str | None,
) -> list[str]:
    """The options of `fm evaluate` as changes of its recipe."""
    changes = [f"evaluation.{name}={value}" for name, value in values.items() if value is not None]
    if not solvers:
        if any(guided):
            raise SettingsError(
                "goes with --solvers", "--guidance", "for example --solvers euler --nfe 8 --guidance 0,1"
            )
        if grids:
            raise SettingsError("goes with --solvers", "--grids", "for example --solvers euler --nfe 8 --grids edm")
        if nfe or tolerances:
            raise SettingsError(
                "go together", "--solvers and --nfe", "for example --solvers euler,midpoint --nfe 4,8,16"
            )
        return changes
    from fm.tableaux import tableau

    if not all(n.strip().isdecimal() for n in nfe.split(",") if nfe):
        raise SettingsError(f"{nfe!r} is not a list of whole numbers", "--nfe", "for example 4,8,16")
    fixed = [f"nfe = {int(n)}" for n in nfe.split(",") if nfe]
    own = [f", grid = {json.dumps(grid)}" if grid else "" for grid in grids.split(",")]
    budgets = {False: [f"{n}{grid}" for grid in own for n in fixed], True: _tolerances(tolerances, control)}
    points = []
    for solver in solvers.split(","):
        adaptive = bool(tableau(solver, "--solvers").error)
        if not budgets[adaptive]:
            option = "--tolerances 1e-3,1e-5" if adaptive else "--nfe 4,8,16"
            raise SettingsError(f"{solver} needs a budget", "--solvers", f"add {option}, for example")
        points += [
            f"{{solver = {json.dumps(solver)}, {budget}{how}}}" for how in guided for budget in budgets[adaptive]
        ]
    if grids and all(tableau(solver).error for solver in solvers.split(",")):
        raise SettingsError(f"changes nothing of {solvers}", "--grids", "they choose their own steps; leave it out")
    if tolerances and not any(tableau(solver).error for solver in solvers.split(",")):
        raise SettingsError(f"changes nothing of {solvers}", "--tolerances", "they have fixed steps; leave it out")
    return [*changes, f"evaluation.grid=[{', '.join(points)}]"]


def guidances(strengths: str, interval: str) -> list[str]:
    """Each strength of guidance, as keys of a budget."""
    try:
        values = [float(value) for value in strengths.split(",") if strengths]
    except ValueError:
        raise SettingsError(f"{strengths!r} is not a list of numbers", "--guidance", "for example 0,1,2") from None
    if interval and not any(values):
        raise SettingsError("goes with --guidance", "--guidance-interval", "for example --guidance 1")
    between = f", interval = {list(interval_of(interval))}" if interval else ""
    return [f", guidance = {value}{between}" if value else "" for value in values] or [""]


def _tolerances(text: str, control: str) -> list[str]:
    """Each tolerance under each control, as keys of a budget."""
    if unknown := set(control.split(",")) - {"joint", "per_sample"}:
        raise SettingsError(f"{min(unknown)!r} is neither joint nor per_sample", "--control")
    try:
        values = [float(value) for value in text.split(",") if text]
    except ValueError:
        raise SettingsError(f"{text!r} is not a list of numbers", "--tolerances", "for example 1e-3,1e-5") from None
    return [f"tolerance = {value}, control = {json.dumps(kind)}" for value in values for kind in control.split(",")]

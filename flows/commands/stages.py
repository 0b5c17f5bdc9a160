"""The commands that run a flow: `fm demo`, `demo2d`, `pipeline`, `prepare`, `train`, `evaluate`."""

import importlib
import json
import os
import shlex
import shutil
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.answered import estimate_pipeline, estimate_training, summarised, tell, tell_plan
from flows.commands.asked import (
    STAGES,
    Address,
    AsJson,
    Changes,
    Data,
    Estimating,
    FewestWorkers,
    Gpus,
    PortBase,
    Preset,
    RunFolder,
    Source,
    StartAt,
    Workers,
    look,
    look_at,
    place,
    recipe_of,
    state,
    trainable,
)
from fm import presets
from fm.errors import SettingsError, member
from fm.files import check_writable
from infra import local
from infra.state import Ports

LAPTOP_SIDE = 32  # the largest images that a network learns in minutes on CPUs
RAY_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def demo(workers: Workers = 2, port_base: PortBase = None, as_json: AsJson = False) -> None:
    """The whole pipeline on real photographs, in minutes and without a GPU; ends with runs/demo/report.html."""
    pipeline("photos:", "runs/demo", "demo", None, "", workers, port_base=port_base, as_json=as_json)


def demo2d(
    out: Annotated[Path, typer.Argument(metavar="[OUT]", help="Folder of the page.")] = Path("runs/demo2d"),
    data: Annotated[list[str] | None, typer.Option(help="checkerboard, eight_gaussians, two_moons, or all.")] = None,
    as_json: AsJson = False,
) -> None:
    """The paper's Figures 2 to 4 in the plane, OT against VP, on one page: two minutes a distribution on 2 cores."""
    from fm.data.plane import chosen

    names = chosen(data or ["checkerboard"], where="--data")
    check_writable(out)
    from fm.demo2d.running import run

    made = run(out, names)
    typer.echo(json.dumps({"report": str(made.page), "rows": made.rows}) if as_json else made.text())


def pipeline(
    source: Source,
    run: RunFolder,
    preset: Preset,
    changes: Changes = None,
    address: Address = "",
    workers: Workers = 2,
    fewest_workers: FewestWorkers = 0,
    gpus: Gpus = "auto",
    port_base: PortBase = None,
    as_json: AsJson = False,
    estimate: Estimating = False,
    start_at: StartAt = "prepare",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say whether each stage would run, and why; start and write nothing."),
    ] = False,
) -> None:
    """Pictures in, report out: prepare, train, evaluate, report. What is done already is not done again."""
    if estimate:
        return estimate_pipeline(source, recipe_of(preset, changes, workers), workers, as_json)
    member(start_at, STAGES, "stage", "--from")
    if dry_run:
        look_at(run, source)
        trainable(run)
        return tell_plan(source, run, recipe_of(preset, changes, workers, fewest_workers), start_at, as_json)
    look(port_base, run, source)
    trainable(run)
    where = place(address, workers, fewest_workers=fewest_workers, gpus=gpus)
    recipe = recipe_of(preset, changes, workers, fewest_workers)
    with services(port_base, address):
        summarised(lambda: flow("pipeline", "pipeline")(source, run, recipe, where, start_at), run, as_json)


def prepare(
    context: typer.Context,
    source: Source,
    out: Annotated[Path | None, typer.Argument(metavar="OUT", help="Folder for the shards.")] = None,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 32,
    method: Annotated[
        str, typer.Option(help="box, area, lanczos: the whole picture squeezed; center-crop: short side, then centre.")
    ] = "box",
    exif: Annotated[
        str, typer.Option(help="ignore: as stored, like official sets; apply: upright, like preset demo.")
    ] = "ignore",
    alpha: Annotated[
        str, typer.Option(help="drop: like official sets; white: transparency over white, like preset demo.")
    ] = "drop",
    encoding: Annotated[
        str | None, typer.Option(help="raw: fastest to read; png: smaller. Default: raw up to 64 px, png above.")
    ] = None,
    holdout: Annotated[float, typer.Option(help="Share held out as test split where the source has no splits.")] = 0.1,
    shard_images: Annotated[int, typer.Option(help="Images in each tar.")] = 500,
    accept_missing: Annotated[
        bool, typer.Option("--accept-missing", help="Finish ImageNet or CIFAR-10 without pictures that are missing.")
    ] = False,
    low_size: Annotated[
        int | None, typer.Option(help="Side of a second, small picture in each sample, for super-resolution.")
    ] = None,
    add: Annotated[
        bool,
        typer.Option("--add", help="Add SOURCE to what OUT holds, with OUT's settings; no old shard changes."),
    ] = False,
    describe: Annotated[bool, typer.Option("--describe", help="Print what the source holds; prepare nothing.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read the shards of OUT, or of SOURCE alone, and compare their hashes.")
    ] = False,
    address: Address = "",
    port_base: PortBase = None,
    as_json: AsJson = False,
) -> None:
    """Downsample pictures and shard them into WebDataset tars with a manifest."""
    from fm import data

    if verify:  # the source may be gone, and `fm prepare DATA --verify` says it all
        return tell(data.verify(source if out is None else out).summary(), as_json)
    if describe:
        found = data.describe(data.open_source(source), None if shutil.which("nvidia-smi") else LAPTOP_SIDE)
        preset = presets.for_size(found.proposed_size or 0)
        onward = f"fm pipeline {shlex.quote(source)} runs/mine --preset {preset}" if preset else ""
        return tell(found.model_dump(mode="json") | {"proposed_preset": preset, "next": onward}, as_json)
    if out is None:
        raise SettingsError("is missing", "OUT", "name a folder for the shards, e.g. data/mine")
    values = {
        "size": size,
        "low_size": low_size,
        "method": method,
        "exif": exif,
        "alpha": alpha,
        "encoding": encoding,
        "holdout": holdout,
        "shard_images": shard_images,
    }
    if add:
        _check_not_given(context, values)
        data.load_manifest(out)
    look(port_base, out, source)
    if add:
        with services(port_base, address):
            made = flow("prepare", "extend_data")(source, str(out), accept_missing, place(address, 1))
    else:
        settings = _preparation(**values, accept_missing=accept_missing)
        with services(port_base, address):
            made = flow("prepare", "prepare_data")(source, str(out), settings, place(address, 1))
    tell(made, as_json)


def _check_not_given(context: typer.Context, names: Iterable[str]) -> None:
    """Raises: SettingsError if one of these options stands on the command line."""
    sources = {name: context.get_parameter_source(name) for name in names}
    given = [name for name, source in sources.items() if source and source.name == "COMMANDLINE"]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise SettingsError(f"keeps the settings that OUT was made with, so {options} cannot be given", "--add")


def train(
    preset: Preset,
    data: Data = "",
    run: RunFolder = "",
    changes: Changes = None,
    address: Address = "",
    workers: Workers = 2,
    fewest_workers: FewestWorkers = 0,
    gpus: Gpus = "auto",
    port_base: PortBase = None,
    as_json: AsJson = False,
    estimate: Estimating = False,
) -> None:
    """Train a network on prepared data; started again, it continues."""
    from fm.data import load_manifest

    if not data:
        mend = "name a folder that `fm prepare` filled; `fm pipeline SOURCE RUN --estimate` needs none"
        raise SettingsError("is missing", "DATA", mend)
    manifest = load_manifest(data)
    if estimate:
        return estimate_training(data, manifest, recipe_of(preset, changes, workers), workers, as_json)
    if not run:
        raise SettingsError("is missing", "RUN", "name a folder for this training, e.g. runs/mine")
    look(port_base, run)
    trainable(run)
    where = place(address, workers, fewest_workers=fewest_workers, gpus=gpus)
    recipe = recipe_of(preset, changes, workers, fewest_workers)
    with services(port_base, address):
        weights = flow("train", "train_run")(data, run, recipe, where)
    tell({"run": run, "weights": weights}, as_json)


@contextmanager
def services(port_base: int | None, address: str = "") -> Iterator[None]:
    """Prefect and MLflow for the length of a command; the flow's libraries are imported while they start.

    A Ray cluster at an address of the user's has a token of its own, that of the environment.
    """
    typer.echo("starting Prefect and MLflow, unless they are up ...", err=True)
    with local.embedded(state(), Ports.from_base(port_base)) as services:
        tokens = {name: os.environ[name] for name in RAY_TOKENS if address and name in os.environ}
        os.environ.update(services.environment() | tokens)
        # The terminal shows what the tasks say; Prefect's own words stay in its UI.
        line = "%(asctime)s  %(message)s"
        for kind in ("FLOW_RUN", "TASK_RUN"):
            os.environ.setdefault(f"PREFECT_LOGGING_FORMATTERS_STANDARD_{kind}_FMT", line)
        try:
            yield
        except (KeyboardInterrupt, SystemExit):  # a signal, of which Prefect says that something crashed
            typer.echo("stopped: what is done is kept, and the same command goes on", err=True)
            raise
        finally:
            importlib.import_module("tasks.watching").flush()


def flow(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"flows.{module}"), name)


def _preparation(**values: Any) -> Any:
    from fm.data import Preparation
    from fm.parsing import parse

    wanted = tomllib.loads(presets.file("demo").read_text())["data"] | values
    return parse(Preparation, {name: value for name, value in wanted.items() if value is not None})

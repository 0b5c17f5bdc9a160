"""`fm`: parse, call, print. Decides nothing; heavy libraries are imported inside the commands."""

import importlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from fm import presets
from fm.errors import SettingsError, UserError
from fm.files import check_writable
from infra import local
from infra.state import Ports

app = typer.Typer(
    name="fm",
    help="Trains and judges flow-matching image models, from raw pictures to a report, run as workflows.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

Preset = Annotated[str, typer.Option("--preset", help=f"A preset ({', '.join(presets.names())}) or a TOML file.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="Change one setting: key=value, e.g. training.batch_images=128.")
]
Address = Annotated[
    str, typer.Option(help="A Ray cluster: host:port, auto, or local. Default: that of `fm up`, or local.")
]
Workers = Annotated[int, typer.Option(min=1, help="Training processes.")]
PortBase = Annotated[int | None, typer.Option(help="Use ports N, N+1, ... instead of 4200, 5000, 6379, 8265.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for scripts.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of one training and its results.")]
DataFolder = Annotated[Path, typer.Argument(metavar="DATA", help="Folder that `fm prepare` filled.")]
Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="A folder of pictures, a WebDataset tar, or photos: (built in).")
]


@app.command(epilog="Example: fm demo")
def demo(workers: Workers = 2, port_base: PortBase = None, as_json: AsJson = False) -> None:
    """The whole pipeline on real photographs, in minutes and without a GPU; ends with runs/demo/report.html."""
    pipeline("photos:", Path("runs/demo"), "demo", None, "", workers, port_base, as_json)


@app.command(epilog="Example: fm demo2d runs/demo2d --data two_moons --data eight_gaussians")
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


@app.command(epilog="Example: fm pipeline my-pictures runs/mine --preset demo --set training.max_seconds=600")
def pipeline(
    source: Source,
    run: RunFolder,
    preset: Preset,
    changes: Changes = None,
    address: Address = "",
    workers: Workers = 2,
    port_base: PortBase = None,
    as_json: AsJson = False,
) -> None:
    """Pictures in, report out: prepare, train, evaluate, report. What is done already is not done again."""
    _look(port_base, run, source)
    recipe = _recipe(preset, changes, workers)
    with _services(port_base):
        page = _flow("pipeline", "pipeline")(source, str(run), recipe, _place(address, workers))
    _summary(run, Path(page), as_json)


@app.command(epilog="Example: fm prepare my-pictures data/mine --size 64 --method center-crop")
def prepare(
    source: Source,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the shards.")] = Path(),
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 32,
    method: Annotated[
        str, typer.Option(help="box: the whole picture squeezed; center-crop: short side, then centre.")
    ] = "box",
    encoding: Annotated[str, typer.Option(help="raw: fastest to read; png: smaller.")] = "raw",
    holdout: Annotated[float, typer.Option(help="Share held out as test split where the source has no splits.")] = 0.1,
    describe: Annotated[bool, typer.Option("--describe", help="Print what the source holds; prepare nothing.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read OUT's shards and compare their hashes; prepare nothing.")
    ] = False,
    address: Address = "",
    port_base: PortBase = None,
    as_json: AsJson = False,
) -> None:
    """Downsample pictures and shard them into WebDataset tars with a manifest."""
    from fm import data

    _look(port_base, out, source)
    if describe:
        return _print(data.describe(data.open_source(source)).model_dump(mode="json"), as_json)
    if out == Path():
        raise SettingsError("is missing", "OUT", "name a folder for the shards, e.g. data/mine")
    if not verify:
        settings = _preparation(size=size, method=method, encoding=encoding, holdout=holdout)
        with _services(port_base):
            _flow("prepare", "prepare_data")(source, str(out), settings, _place(address, 1))
    manifest = data.verify(out)
    _print({name: split.images for name, split in manifest.splits.items()} | {"digest": manifest.digest}, as_json)


@app.command(epilog="Example: fm train data/mine runs/mine --preset demo --set training.total_images=200000")
def train(
    data: DataFolder,
    run: RunFolder,
    preset: Preset,
    changes: Changes = None,
    address: Address = "",
    workers: Workers = 2,
    port_base: PortBase = None,
    as_json: AsJson = False,
) -> None:
    """Train a network on prepared data; started again, it continues."""
    from fm.data import load_manifest

    load_manifest(data)
    _look(port_base, run)
    recipe = _recipe(preset, changes, workers)
    with _services(port_base):
        weights = _flow("train", "train_run")(str(data), str(run), recipe, _place(address, workers))
    _print({"run": str(run), "weights": weights}, as_json)


@app.command(epilog="Example: fm evaluate runs/mine --solvers euler,midpoint --nfe 4,8,16 --samples 500")
def evaluate(
    run: RunFolder,
    data: Annotated[str, typer.Argument(metavar="[DATA]", help="The data it was trained on, if they have moved.")] = "",
    solvers: Annotated[
        str, typer.Option(help="Solvers with fixed steps, e.g. euler,midpoint,rk4. Default: the recipe's.")
    ] = "",
    nfe: Annotated[str, typer.Option(help="Network evaluations for each of them, e.g. 4,8,16.")] = "",
    samples: Annotated[int | None, typer.Option(min=20, help="Samples for each cell.")] = None,
    nll_k: Annotated[int | None, typer.Option(min=1, help="Dequantisation draws for each image.")] = None,
    changes: Changes = None,
    address: Address = "",
    workers: Workers = 2,
    port_base: PortBase = None,
    as_json: AsJson = False,
) -> None:
    """Measure a trained network at several solvers and budgets, in parallel, and write its report.

    The report shows these cells; rows measured before stay in RUN/evaluations.
    """
    _look(port_base, _existing(run))
    for change in changes or []:
        if not change.startswith("evaluation."):
            mend = "only evaluation.* may change after the training"
            raise SettingsError("changes the training", f"--set {change}", mend)
    recipe = _recipe(run, [*(changes or []), *_measurements(solvers, nfe, samples, nll_k)])
    with _services(port_base):
        page = _flow("evaluate", "evaluate_run")(str(run), data, recipe.evaluation, _place(address, workers))
    _summary(run, Path(page), as_json)


@app.command(epilog="Example: fm sample runs/demo --n 64 --out grid.png --solver midpoint --nfe 16")
def sample(
    run: RunFolder,
    n: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 64,
    out: Annotated[Path, typer.Option(help="The PNG to write: one grid of all pictures.")] = Path("grid.png"),
    class_name: Annotated[str, typer.Option("--class", help="Only this class, of a class-conditional network.")] = "",
    guidance: Annotated[
        float, typer.Option(help="Strength of guidance, away from no label or --guide; 0: none.")
    ] = 0.0,
    interval: Annotated[
        str, typer.Option("--guidance-interval", help="Guide only between these two times of 0 (noise) to 1.")
    ] = "0,1",
    guide: Annotated[
        Path | None, typer.Option(help="RUN of a weaker network of the same kind, to guide away from.")
    ] = None,
    solver: Annotated[str, typer.Option(help="How the ODE is solved.")] = "midpoint",
    nfe: Annotated[int | None, typer.Option(min=1, help="Network evaluations for a picture (fixed steps).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the initial noise.")] = 0,
) -> None:
    """Draw pictures from a trained network."""
    _existing(run)
    if out.is_dir() or not os.access(out.resolve().parent, os.W_OK):
        raise UserError("no picture can be written here", str(out), "name a file in a folder you may write")
    from fm.tableaux import tableau

    fixed, between = not tableau(solver, "--solver").error, _interval(interval)
    if (guidance and not (class_name or guide)) or (guide and not guidance):
        raise SettingsError("go together", "--guidance and --class or --guide", "for example --guidance 1 --guide RUN")
    if guide:
        _existing(guide)
    from fm.files import atomic
    from fm.recipe import load
    from fm.report import picture

    flow, weaker = load(run), load(guide) if guide else None
    y = flow.labels_of(class_name, n) if class_name else None
    guided = {"guidance": guidance, "interval": between, "guide": weaker}
    images = flow.sample(n, seed, y=y, method=solver, nfe=nfe or (32 if fixed else None), **guided)
    with atomic(out) as file:
        file.write(picture(images))
    what = "pictures" if flow.of_images else "points"
    typer.echo(f"{n} {what} in {out} ({solver}, {nfe or (32 if fixed else 'adaptive')} NFE, seed {seed})")


@app.command(epilog="Example: fm up --port-base 24000")
def up(port_base: PortBase = None) -> None:
    """Start Prefect with a worker, MLflow and Ray on this machine, and deploy prefect.yaml."""
    services = local.up(_state(), Ports.from_base(port_base))
    typer.echo("deploying prefect.yaml ...")
    _deploy(services.environment())
    _print_status()
    typer.echo("next: open the first address, Deployments, pipeline-demo, Run. `fm down` stops everything.")


@app.command(epilog="Example: fm down")
def down() -> None:
    """Stop all that `fm up` started."""
    stopped = local.down(_state())
    typer.echo(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")


@app.command(epilog="Example: fm status, or: fm status runs/demo")
def status(run: Annotated[Path | None, typer.Argument(metavar="[RUN]")] = None, as_json: AsJson = False) -> None:
    """The services of this machine, or how far a RUN is."""
    if run is None:
        return _print_status(as_json)
    from fm.files import read_json
    from fm.records import read

    training, rows = read_json(_existing(run) / "recipe.json")["training"], read(run / "records")
    measured = len(list((run / "evaluations").glob("*.json")))
    page = str(run / "report.html") if (run / "report.html").exists() else ""
    last = rows[-1] if rows else {"images_seen": 0}
    if as_json:
        return _print({**last, "total_images": training["total_images"], "rows": measured, "report": page}, True)
    told = {"train": f"{last['images_seen']:,} of {training['total_images']:,} images"}
    if training["max_seconds"]:
        told["train"] += f" or {training['max_seconds']:g} s"
    if rows:
        at = datetime.fromtimestamp(last["time"]).strftime("%Y-%m-%d %H:%M:%S")
        told["train"] += f", loss {last['loss']:.4f}, {last['seconds']:,.0f} s of training, last report {at}"
    _print({**told, "evaluate": f"{measured} cells measured", "report": page or "not yet"}, False)


@app.command(epilog="Example: fm logs prefect --lines 50")
def logs(
    name: Annotated[str, typer.Argument(help="prefect, mlflow, ray or worker.")],
    lines: Annotated[int, typer.Option(min=1, help="How many of its last lines.")] = 30,
) -> None:
    """The last lines of a service's log."""
    path = local.log(_state(), name)
    typer.echo("\n".join(path.read_text(errors="replace").splitlines()[-lines:]))


def main() -> None:
    """Runs `fm`; a user's error is one line on stderr and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _state() -> Path:
    return Path(os.environ.get("FM_STATE", ".state"))


@contextmanager
def _services(port_base: int | None) -> Iterator[None]:
    """Prefect and MLflow for the length of a command; the flow's libraries are imported while they start."""
    typer.echo("starting Prefect and MLflow, unless they are up ...", err=True)
    with local.embedded(_state(), Ports.from_base(port_base)) as services:
        os.environ.update(services.environment())
        # The terminal shows what the tasks say; Prefect's own words stay in its UI.
        line = "%(asctime)s  %(message)s"
        for kind in ("FLOW_RUN", "TASK_RUN"):
            os.environ.setdefault(f"PREFECT_LOGGING_FORMATTERS_STANDARD_{kind}_FMT", line)
        try:
            yield
        finally:
            importlib.import_module("tasks.watching").flush()


def _flow(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"flows.{module}"), name)


def _look(port_base: int | None, folder: Path, source: str = "") -> None:
    """Says at once, before anything heavy is loaded, what cannot be: ports, folders, sources."""
    local.check_startable(_state(), Ports.from_base(port_base))
    check_writable(folder)
    if source:
        from fm.data import open_source

        if os.path.isdir(source) and folder.resolve().is_relative_to(Path(source).resolve()):
            raise UserError(f"lies inside the pictures of {source}", str(folder), "choose a folder outside of them")
        open_source(source)


def _existing(run: Path) -> Path:
    if not (run / "recipe.json").exists():
        raise UserError(
            "no training here (it has no recipe.json)", str(run), "train first: `fm pipeline` or `fm train`"
        )
    return run


def _recipe(preset: str | Path, changes: list[str] | None, workers: int = 1) -> Any:
    if not os.path.exists(preset) and not str(preset).endswith(".toml"):
        presets.file(str(preset))
    from fm.recipe import Recipe

    recipe = Recipe.load(preset, changes or ())
    recipe.check(workers)
    return recipe


def _preparation(**values: Any) -> Any:
    from fm.data import Preparation
    from fm.parsing import parse

    return parse(Preparation, tomllib.loads(presets.file("demo").read_text())["data"] | values)


def _place(address: str, workers: int) -> Any:
    from tasks.cluster import Place

    return Place(address=address, workers=workers)


def _interval(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise SettingsError(f"{text!r} is not two times", "--guidance-interval", "for example 0.2,0.8") from None
    return low, high


def _measurements(solvers: str, nfe: str, samples: int | None, nll_k: int | None) -> list[str]:
    """The options of `fm evaluate` as changes of its recipe."""
    if bool(solvers) != bool(nfe):
        raise SettingsError("go together", "--solvers and --nfe", "for example --solvers euler,midpoint --nfe 4,8,16")
    changes = [f"evaluation.samples={samples}"] if samples else []
    changes += [f"evaluation.nll_k={nll_k}"] if nll_k else []
    if not all(n.strip().isdecimal() for n in nfe.split(",") if nfe):
        raise SettingsError(f"{nfe!r} is not a list of whole numbers", "--nfe", "for example 4,8,16")
    if solvers:
        from fm.tableaux import tableau

        for solver in solvers.split(","):
            tableau(solver, "--solvers")
        cells = [f"{{solver = {json.dumps(s)}, nfe = {int(n)}}}" for s in solvers.split(",") for n in nfe.split(",")]
        changes.append(f"evaluation.grid=[{', '.join(cells)}]")
    return changes


def _summary(run: Path, page: Path, as_json: bool) -> None:
    from fm.files import read_json
    from fm.recipe import Recipe
    from fm.results import existing_row, table_note, text_table
    from tasks.report import next_commands

    rows = [existing_row(run, key) for key in read_json(run / "report" / "inputs.json")["rows"]]
    if as_json:
        typer.echo(json.dumps({"report": str(page), "rows": rows}))
        return
    typer.echo(f"\n{text_table(rows)}\n{table_note(rows)}\n\nreport: {page.resolve().as_uri()}\n\nworth trying next:")
    for command, what in next_commands(run, Recipe.load(run)):
        typer.echo(f"  {command:<60} {what}")


def _print(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(values))
    else:
        for key, value in values.items():
            typer.echo(f"{key:<12} {value}")


def _print_status(as_json: bool = False) -> None:
    services = local.status(_state())
    if as_json:
        typer.echo(json.dumps([vars(s) for s in services]))
    for s in [] if as_json else services:
        since = datetime.fromtimestamp(s.since).strftime("%H:%M:%S")
        health = "healthy" if s.healthy else "NOT HEALTHY"
        typer.echo(f"{s.name:<8} {s.address:<62} {health:<12} {s.memory_bytes / 2**20:5.0f} MiB  since {since}")
    if not services and not as_json:
        typer.echo("nothing is running; `fm up` starts the services")


def _deploy(environment: dict[str, str]) -> None:
    """Deploys prefect.yaml of the folder that holds this project."""
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, cwd=root, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"could not be deployed:\n{(done.stdout + done.stderr)[-2000:]}", str(root / "prefect.yaml"))


if __name__ == "__main__":
    main()

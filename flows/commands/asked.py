"""What the commands ask for: their options, and what these stand for; a wrong one is said before heavy imports."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from fm import presets
from fm.errors import SettingsError, UserError
from fm.files import check_writable
from infra import local
from infra.state import Ports

Preset = Annotated[str, typer.Option("--preset", help=f"A preset ({', '.join(presets.names())}) or a TOML file.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a setting: key=value, e.g. training.batch_images=128; `fm settings` lists all."),
]
Address = Annotated[
    str, typer.Option(help="A Ray cluster: host:port, auto, or local. Default: that of `fm up`, or local.")
]
Workers = Annotated[int, typer.Option(min=1, help="Training processes.")]
FewestWorkers = Annotated[
    int, typer.Option(min=0, help="Go on with as few after a loss, e.g. of a node. Default: exactly --workers.")
]
Gpus = Annotated[str, typer.Option(help="auto: GPUs where the cluster has them; all: nothing else; none: CPUs.")]
PortBase = Annotated[int | None, typer.Option(help="Use ports N to N+4 instead of 4200, 5000, 6379, 8265, 10001.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for scripts.")]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="Folder of one training and its results, or address.")]
Data = Annotated[str, typer.Argument(metavar="DATA", help="Folder that `fm prepare` filled, or its address.")]
Estimating = Annotated[
    bool,
    typer.Option(
        "--estimate",
        help="Measure a few steps and say what it will cost, in half a minute to three; start and write nothing.",
    ),
]
STAGES = dict.fromkeys(("prepare", "train", "evaluate", "report"))
StartAt = Annotated[
    str, typer.Option("--from", metavar="STAGE", help=f"Start at {', '.join(STAGES)}; what is before must be there.")
]


def signature_aside(source: str) -> str:
    """The source as Prefect may keep it; a signature in its address stays in this process's environment."""
    if is_address(source) and "?" in source:
        from fm.data.sources import QUERY, parted

        source, query = parted(source)
        if query:
            os.environ[QUERY] = query
    return source


Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder of pictures, tars, archives as downloaded, or photos: (built in).",
        callback=signature_aside,
    ),
]

Comparing = Annotated[
    str,
    typer.Option(
        help="Its pictures, or DATA that `fm prepare` filled. Default: those that come with it.",
        callback=signature_aside,
    ),
]
Seeds = Annotated[int, typer.Option(min=1, help="Trainings of each method.")]
DifferentData = Annotated[
    bool, typer.Option("--allow-different-data", help="Take other data than the published; the page says so.")
]
GuidanceInterval = Annotated[
    str, typer.Option("--guidance-interval", help="Guide only between these two times of 0 (noise) to 1.")
]
Guide = Annotated[str | None, typer.Option(help="RUN of a weaker network of the same kind, to guide away from.")]


def state() -> Path:
    return Path(os.environ.get("FM_STATE", ".state"))


def look(port_base: int | None, run: str | Path, source: str = "") -> None:
    """Says at once, before anything heavy is loaded, what cannot be: ports, folders, sources."""
    local.check_startable(state(), Ports.from_base(port_base))
    look_at(run, source)


def look_at(run: str | Path, source: str = "") -> None:
    """As `look`, of folders and sources alone."""
    folder = found(run)
    if not is_address(run):
        check_writable(folder)
    if source:
        from fm.data import open_source

        if os.path.isdir(source) and folder.resolve().is_relative_to(Path(source).resolve()):
            raise UserError(f"lies inside the pictures of {source}", str(folder), "choose a folder outside of them")
        open_source(source)


def is_address(run: str | Path) -> bool:
    """As `fm.data.addresses` says, whose import would take a moment."""
    return "://" in str(run)


def found(run: str | Path) -> Path:
    """RUN's folder; of an address the copy of this machine, brought up to date."""
    if not is_address(run):
        return Path(run)
    from fm.runs import pulled

    return pulled(run)


def existing(run: str) -> Path:
    """RUN's folder, as `found`.

    Raises: UserError if nothing was trained there.
    """
    folder = found(run)
    if not (folder / "recipe.json").exists():
        raise UserError("no training here (it has no recipe.json)", run, "train first: `fm pipeline` or `fm train`")
    return folder


def trainable(run: str) -> None:
    """Says of an imported network at once that it cannot be trained."""
    if (found(run) / "data.json").exists():
        from fm.facts import check_trainable

        check_trainable(run)


def recipe_of(preset: str | Path, changes: list[str] | None, workers: int = 1, fewest_workers: int = 0) -> Any:
    if is_address(preset):
        preset = existing(str(preset))
    if not os.path.exists(preset) and not str(preset).endswith(".toml"):
        presets.file(str(preset))
    from fm.recipe import Recipe

    recipe = Recipe.load(preset, changes or ())
    recipe.check(workers, fewest_workers)
    return recipe


def place(address: str, workers: int, **more: Any) -> Any:
    from fm.parsing import parse
    from tasks.place import Place

    if longest := os.environ.get("FM_SILENT_S"):
        more["silent_s"] = longest
    return parse(Place, {"address": address, "workers": workers, **more}, "--workers and its kin")


def device_of(device: str) -> str:
    """`cpu` or `cuda`, of `auto` what is there.

    Raises: SettingsError for another word, or a GPU that is not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise SettingsError(f"{device!r} is no device", "--device", "take auto, cpu or cuda")
    import torch

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise SettingsError("this machine has no GPU that torch can use", "--device cuda", "take --device cpu")
    return device if device != "auto" else "cuda" if there else "cpu"

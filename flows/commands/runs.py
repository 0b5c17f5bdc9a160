"""The commands that use a trained network: `fm sample`, `fm import`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.answered import tell
from flows.commands.asked import AsJson, GuidanceInterval, Guide, RunFolder, device_of, existing, is_address
from fm import presets
from fm.errors import SettingsError, UserError, several
from fm.files import check_file, check_writable

if TYPE_CHECKING:
    from torch import Tensor

    from fm.flow import Flow


BATCH = 64  # pictures drawn at once, where memory holds them


def sample(
    run: RunFolder,
    n: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 64,
    out: Annotated[Path, typer.Option(help="The PNG to write: one grid of all pictures.")] = Path("grid.png"),
    class_name: Annotated[str, typer.Option("--class", help="Only this class, of a class-conditional network.")] = "",
    low: Annotated[
        Path | None,
        typer.Option(
            help="Of a super-resolution network: the small picture to enlarge, or a folder of them; one of another "
            "size is brought to the network's, around its centre. Default: held-out ones of its data."
        ),
    ] = None,
    guidance: Annotated[
        float, typer.Option(help="Strength of guidance, away from no label or --guide; 0: none.")
    ] = 0.0,
    interval: GuidanceInterval = "0,1",
    guide: Guide = None,
    solver: Annotated[str, typer.Option(help="How the ODE is solved; jump: of mean_flow and shortcut.")] = "midpoint",
    nfe: Annotated[
        int | None, typer.Option(min=1, help="Network evaluations for a picture (fixed steps). Default: 32, of jump 1.")
    ] = None,
    grid: Annotated[
        str, typer.Option(help="Where fixed steps lie: uniform, edm, log_snr, optimised. Default: the solver's own.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the initial noise.")] = 0,
    weights: Annotated[
        str, typer.Option(help="ema: the first average; ema_50kimg: that of this half-life; best; model: no average.")
    ] = "ema",
    device: Annotated[str, typer.Option(help="auto: a GPU where there is one; cpu; cuda.")] = "auto",
) -> None:
    """Draw pictures from a trained network."""
    existing(run)
    if out.is_dir() or not os.access(out.resolve().parent, os.W_OK):
        raise UserError("no picture can be written here", str(out), "name a file in a folder you may write")
    from fm.tableaux import Jumps, tableau

    fixed, between = not tableau(solver, "--solver").error, interval_of(interval)
    if (guidance and not (class_name or guide)) or (guide and not guidance):
        raise SettingsError("go together", "--guidance and --class or --guide", "for example --guidance 1 --guide RUN")
    if guidance and isinstance(tableau(solver), Jumps):
        raise SettingsError("a jump is not guided", "--guidance", "leave it out, or choose another solver")
    if guide:
        existing(guide)
    from fm.files import atomic
    from fm.footprint import batch_that_fits
    from fm.recipe import load
    from fm.report import picture

    where = device_of(device)
    flow, weaker = load(run, where, weights), load(guide, where) if guide else None
    y = flow.labels_of(class_name, n) if class_name else None
    guided = {"guidance": guidance, "interval": between, "guide": weaker}
    small = _small(flow, run, low, n)
    batch = batch_that_fits(flow.model, flow.shape, where, BATCH)
    nfe = nfe or (1 if isinstance(tableau(solver), Jumps) else 32 if fixed else None)
    drawn = {"y": y, "low": small, "method": solver, "nfe": nfe, "grid": grid or None, "batch": batch}
    images = flow.sample(n, seed, **drawn, **guided)
    with atomic(out) as file:
        file.write(picture(images.cpu()))
    few = f", {several(batch, 'picture')} at once: no memory for more" if batch < min(n, BATCH) else ""
    few += ", which share their steps" if few and not fixed else ""
    what = "pictures" if flow.of_images else "points"
    typer.echo(f"{n} {what} in {out} ({solver}, {nfe or 'adaptive'} NFE, seed {seed}, on {where}{few})")


def _small(flow: "Flow", run: str, low: Path | None, n: int) -> "Tensor | None":
    """The small pictures that n samples belong to, in turn; none for a network that is told none."""
    from fm.enlarging import small_picture
    from fm.facts import facts_of
    from fm.reference import examples
    from fm.runs import pulled

    if low is None or flow.low_size is None:
        if low is not None:
            raise SettingsError("this network is of no super-resolution", "--low", "leave it out")
        given = examples(flow, facts_of(pulled(run))["data"], n)
        return given and given.low
    files = sorted(file for file in low.iterdir() if file.is_file()) if low.is_dir() else [low]
    if not files:
        raise UserError("holds no picture", str(low), "name a picture, or a folder of them")
    import torch

    found = torch.stack([small_picture(file, flow.low_size) for file in files])
    return found[torch.arange(n) % len(found)]


def import_(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A .pt, .pth or .safetensors file.")],
    run: RunFolder,
    peer: Annotated[
        str | None, typer.Option(help="Who trained it, for plain weights: guided-diffusion, torchcfm, flow_matching.")
    ] = None,
    weights: Annotated[str, typer.Option(help="ema: the averaged ones; model: the raw ones.")] = "ema",
    size: Annotated[int | None, typer.Option(min=4, help="Side of its images in pixels, if unknown.")] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="What it was trained on, if unknown: linear or cosine of guided-diffusion; ot (straight lines: icfm, "
            "fm, otcfm) or trigonometric (si) of torchcfm."
        ),
    ] = None,
    heads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Attention heads at every level, if unknown; for heads of 64 channels --set model.head_channels=64.",
        ),
    ] = None,
    new_attention_order: Annotated[
        bool | None,
        typer.Option("--new-attention-order/--legacy-attention-order", help="guided-diffusion's flag, if unknown."),
    ] = None,
    images_seen: Annotated[int, typer.Option("--images", min=0, help="Images it has seen, if you know.")] = 0,
    preset: Annotated[str | None, typer.Option(help="A preset, for its evaluation.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Tell one setting that the file does not: key=value, e.g. model.head_channels=64; or change what is "
            "measured, e.g. evaluation.samples=1000.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a RUN of a checkpoint of guided-diffusion, torchcfm or flow_matching, to sample, score and compare.

    Weights only: nothing in the file is executed. The RUN cannot be trained further: it has no optimiser.
    """
    check_file(checkpoint)
    if is_address(run):
        raise SettingsError("is an address", run, "import into a folder, and copy it there")
    check_writable(Path(run))
    if preset:
        presets.file(preset)
    from fm.importing import import_run

    of_file = (peer, weights, size, schedule, heads, new_attention_order, images_seen, preset, changes or ())
    tell({"run": run} | import_run(checkpoint, Path(run), *of_file), as_json)


def interval_of(text: str) -> tuple[float, float]:
    """Two times, as `--guidance-interval` has them."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise SettingsError(f"{text!r} is not two times", "--guidance-interval", "for example 0.2,0.8") from None
    return low, high

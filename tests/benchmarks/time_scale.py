"""What `time_scale` does to a small U-Net: loss, bits/dim, evaluations and distance at scales 1 to 1000.

`python -m tests.benchmarks.time_scale FOLDER [SEED...]` trains and measures what FOLDER lacks, and prints its table.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev

import torch

from fm.cells import cells
from fm.checkpoints import newest
from fm.data import ShardedImages, open_source, write_shards
from fm.data.manifest import load_manifest
from fm.evaluation import evaluate
from fm.facts import on_data
from fm.metrics import load_features
from fm.recipe import Recipe, load, opened
from fm.records import read
from fm.reference import measure_reference
from fm.results import Row, read_rows, write_row
from tasks.on_workers import training

SCALES = (1.0, 10.0, 30.0, 100.0, 1000.0)
CHANGES = {
    "model.multiples": [1, 2, 2],
    "model.attention_resolutions": [8],
    "training.total_images": 16_000,
    "training.report_images": 1_000,
    "training.save_images": 8_000,
    "evaluation.grid": [
        {"solver": "midpoint", "nfe": 8, "samples": 500},
        {"solver": "dopri5", "tolerance": 1e-3},
        {"solver": "dopri5", "tolerance": 1e-5},
    ],
    "evaluation.samples": 32,
    "evaluation.batch": 32,
    "evaluation.reference_images": 1_000,
    "evaluation.nll_images": 32,
}
LAST = 0.75  # the loss is the mean over what was seen after this share of the images
FD = "fd_efficientnet_lite0_b7"


def measured(folder: Path, scale: float, seed: int) -> dict[str, float]:
    """The columns of one RUN, which is trained and measured first where it is not yet."""
    recipe = Recipe.load("tiny", {**CHANGES, "model.time_scale": scale, "training.seed": seed})
    data = folder / "data"
    with opened(folder / f"scale-{scale:g}-seed-{seed}", recipe) as run:
        on_data(run, data, load_manifest(data))
        saved = newest(run)
        if not saved or saved.images_seen < recipe.training.total_images:
            training({"recipe": recipe.model_dump(mode="json"), "run": str(run), "data": str(data)})
        rows = {_name(found): found for found in read_rows(run)}
        for cell in cells(recipe.evaluation):
            if str(cell) not in rows:
                bits = 0 if cell.tolerance != 1e-5 else cell.nll_images
                cell = cell.model_copy(update={"nll_images": bits})
                flow, features = load(run), load_features(recipe.evaluation.features)
                sets = ShardedImages(data, "train"), ShardedImages(data, "test")
                reference = measure_reference(*sets, features, recipe.evaluation)
                rows[str(cell)] = evaluate(flow, cell, features, reference)
                write_row(run, rows[str(cell)])
        return _columns(run, rows, recipe)


def _name(found: Row) -> str:
    """As `str(Cell)`."""
    return f"{found['solver']} {found['nfe'] if found['tolerance'] is None else format(found['tolerance'], 'g')}"


def _columns(run: Path, rows: dict[str, Row], recipe: Recipe) -> dict[str, float]:
    late = read(run / "records", after=int(LAST * recipe.training.total_images))
    fine = rows["dopri5 1e-05"]
    return {
        "loss": fmean(report["loss"] for report in late),
        "bits/dim": fine["bits_per_dim"],
        "NFE, 1e-3": rows["dopri5 0.001"]["nfe_mean"],
        "NFE, 1e-5": fine["nfe_mean"],
        "NFE of bits/dim, 1e-5": fine["nll_nfe"],
        f"{FD}, midpoint 8": rows["midpoint 8"][FD],
    }


def table(found: dict[float, list[dict[str, float]]]) -> str:
    """Means over seeds; in brackets the mean of the differences to scale 30, seed by seed, and its standard error."""
    names = list(found[SCALES[0]][0])
    lines = [" | ".join(["time scale", *names]), " | ".join(["---"] * (len(names) + 1))]
    for scale, seeds in found.items():
        lines.append(" | ".join([f"{scale:g}", *(_entry(seeds, found[30.0], name) for name in names)]))
    return "\n".join(f"| {line} |" for line in lines)


def _entry(seeds: list[dict[str, float]], default: list[dict[str, float]], name: str) -> str:
    mean = f"{fmean(columns[name] for columns in seeds):.4g}"
    if seeds is default or len(seeds) < 2:
        return mean
    apart = [ours[name] - thirty[name] for ours, thirty in zip(seeds, default, strict=True)]
    return f"{mean} ({fmean(apart):+.2g} ± {stdev(apart) / len(apart) ** 0.5:.1g})"


def main(folder: Path, seeds: list[int], say: Callable[[str], None] = print) -> None:
    torch.set_num_threads(1)
    data = folder / "data"
    if not (data / "manifest.json").exists():
        write_shards(open_source("photos:"), data, Recipe.load("tiny").data)
    load_features("efficientnet_lite0_b7")
    images = len(ShardedImages(data, "train"))
    say(f"{images:,} tiles of photographs at 16 px, {CHANGES['training.total_images']:,} images seen, seeds {seeds}\n")
    found: dict[float, list[dict[str, float]]] = {scale: [] for scale in SCALES}
    for seed in seeds:
        for scale in SCALES:
            found[scale].append(measured(folder, scale, seed))
            print(scale, seed, found[scale][-1], file=sys.stderr, flush=True)
    say(table(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(seed) for seed in sys.argv[2:]] or [0, 1])

"""`fm/presets/README.md`: what each preset trains and costs, computed from the presets by `python -m tests.recipes`."""

from pathlib import Path

import torch

from fm import presets
from fm.ema import decay
from fm.estimating.units import short
from fm.models.cost import STATED, cost, h100_hours
from fm.recipe import Recipe

FILE = presets.FOLDER / "README.md"

# Millions of parameters as published or counted on the reference implementation, and where the settings are from.
PAPER = "Lipman et al. 2023, Table 3"
SOURCES = {
    "best": (
        "",
        "ours: preset demo with the persistent coupling, nearer at all NFE tried (tests/benchmarks, Beyond the paper)",
    ),
    "cifar10": ("171.27", f"{PAPER}: 391k steps, which are 2,000 epochs"),
    "cifar10-otcfm": ("", "Tong et al. 2024 and the code of torchcfm's CIFAR-10 example"),
    "demo": ("", "ours; ends after 140 s, if not by images"),
    "emoji64": ("", "ours"),
    "imagenet128": ("542.80", f"{PAPER}: 500k steps, which are 599 epochs"),
    "imagenet32": ("228.15", f"{PAPER}: 250k steps"),
    "imagenet64": ("295.13", f"{PAPER}: 157k steps"),
    "mini": ("", "ours, for `fm paper --scale mini`"),
    "superres-mini": ("", "ours, for `fm superres`"),
    "superres256": ("", "the network of Dhariwal & Nichol 2021, without classes; the paper states no settings"),
    "tiny": ("", "ours, to see that all works"),
}
HEAD = """# The presets

Made from these files by `python -m tests.recipes`; change those, not this table.
Batches are global and lengths are images seen, whatever the number of workers. GFLOP are of one image's forward pass
(two for each multiply-add of convolutions and matrix products); a training step costs three times that for each image.
H100-hours are those FLOP at that utilisation, which imagenet64 reached on an H200 in bf16; `training.compile=true`
was 1.4 times as fast. In fp32 (3.7 %) multiply by 5.4, in tf32 (14 %) by 1.4; measured:
[tests/benchmarks](../../tests/benchmarks/README.md).
EMA is the share of the average that one step keeps, once the images seen are ten half-lives (`ema_ramp`).

"""
FOOT = """
- The published counts are those of ADM's network (Dhariwal & Nichol 2021) with scale-shift and up/down residual blocks
  both on; the paper does not say which it took. `cifar10-otcfm` has both off, as torchcfm's.
- Not stated in the paper, and chosen here: EMA and clipping (without them its CIFAR-10 recipe gives FID 11.5), flips,
  sigma_min, and the time scale 30.
- NLL is by the paper's K (50, 15 and 10 dequantisations; unknown at 128 px, so 1) with one probe for each image, and
  K = 1 stands beside it. It is measured at every point of the solver grid: `--set evaluation.nll_images=0` omits it.
- Distances are on EfficientNet's features (`fd`), which are not FID and not comparable with published FID.
"""


def line(name: str) -> str:
    recipe = Recipe.load(name)
    with torch.device("meta"):
        network, _ = recipe.build(recipe.data.shape, None)
    training, counted = recipe.training, cost(network, recipe.data.size)
    flops = counted.training_flops(training.total_images)
    published, source = SOURCES[name]
    kept = decay(training.ema_halflife_kimg[0], 0.0, 0, training.batch_images)
    cells = [
        f"[`{name}`]({name}.toml)",
        f"{recipe.data.size}",
        f"{counted.parameters / 1e6:.2f} M" + (f" ({published})" if published else ""),
        f"{counted.forward_flops / 1e9:,.1f}",
        f"{flops:.1e}",
        short(h100_hours(flops), 2),
        f"{training.batch_images:,}",
        f"{training.total_images:,}",
        f"{training.learning_rate:g} {training.schedule}, warm-up {training.warmup_images:,}",
        f"{kept:.6g}",
        f"{recipe.model.dropout:g}",  # type: ignore[union-attr]
        training.precision,
        source,
    ]
    return f"| {' | '.join(cells)} |\n"


def text() -> str:
    """The whole file."""
    counted = ["preset", "pixels", "parameters (published)", "GFLOP", "training FLOP", f"H100-hours at {STATED}"]
    names = [*counted, "batch", "images seen", "learning rate", "EMA", "dropout", "precision", "source"]
    table = f"| {' | '.join(names)} |\n|{' --- |' * len(names)}\n"
    return HEAD + table + "".join(map(line, presets.names())) + FOOT


if __name__ == "__main__":
    Path(FILE).write_text(text())

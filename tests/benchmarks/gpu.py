"""One GPU: a training step of the presets, what would speed it, its data, samples and likelihoods.

`python -m tests.benchmarks.gpu DATA [SECTION...]` prints Markdown rows. DATA holds data sets in folders named by their
size in pixels (32, 64, 128), of at least a hundred pictures each. Longer texts go to the folder that FM_BENCH names.
Without a GPU all sizes are tiny: to see that it runs. By the clock, for a GPU is nobody else's.
"""

import platform
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from fm.arithmetic import full_precision
from fm.flow import Flow
from fm.models.cost import H100_FLOPS
from fm.recipe import Recipe
from tests.benchmarks.gpu_timing import DEVICE, GPU, arithmetic, matmul_flops, network, seconds
from tests.benchmarks.gpu_training import curves, profile, training, ways
from tests.benchmarks.timing import Row

SAMPLES, NFE = (64, 8) if GPU else (4, 4)


def ceilings() -> Iterator[Row]:
    for kind, sheet in {"bf16": H100_FLOPS, "tf32": H100_FLOPS / 2, "fp32": 67e12}.items():
        found = matmul_flops(kind)
        yield (
            f"product of 8192 x 8192, {kind}: {found / 1e12:.0f} TFLOP/s",
            f"data sheet {sheet / 1e12:.0f}",
            found / sheet,
        )
    x = torch.empty(2**30 if GPU else 2**20, dtype=torch.uint8, device=DEVICE)
    speed = 2 * len(x) / seconds(x.clone, 5)
    yield f"copy on the device: {speed / 1e12:.2f} TB/s", "data sheet of an H100 3.35 TB/s", speed / 3.35e12


def flow() -> tuple[Flow, Tensor, Tensor]:
    """The network of emoji64, briefly moved from its start, at which all its blocks are identities."""
    recipe = Recipe.load("emoji64" if GPU else "tiny")
    model, objective = network(recipe)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.02)
    shape = recipe.data.shape
    return Flow(model, objective, shape), torch.randn(SAMPLES, *shape, device=DEVICE), torch.full((SAMPLES,), 0.5)


def sampling(data: Path) -> Iterator[Row]:
    """Samples against as many bare calls of the network; strictly, and with TF32 in convolutions and products."""
    made, x, t = flow()
    at = t.to(DEVICE)
    for kind in ("fp32", "tf32"):
        with arithmetic(tf32=kind == "tf32"), torch.no_grad():
            call = seconds(lambda: made.model(x, at), 5)
            for solver in (
                {"method": "euler", "nfe": NFE},
                {"method": "midpoint", "nfe": NFE},
                {"rtol": 1e-4, "atol": 1e-4},
            ):
                costs = []
                took = seconds(lambda: costs.append(made.draw(SAMPLES, **solver).nfe), 1)  # noqa: B023
                says = f"{SAMPLES} samples at 64 px, {kind}, {solver.get('method', 'dopri5 at 1e-4')}, NFE {costs[-1]}"
                yield (
                    f"{says}: {SAMPLES / took:.1f} images/s",
                    f"{costs[-1]} bare calls (limit 1.03)",
                    took / call / costs[-1],
                )


def likelihood(data: Path) -> Iterator[Row]:
    """Bits/dim with one draw against bare calls with a vector-Jacobian product each."""
    made, x, t = flow()
    at, images = t.to(DEVICE), torch.randint(0, 256, x.shape, dtype=torch.uint8)

    def product() -> None:
        state = x.clone().requires_grad_()
        torch.autograd.grad(made.model(state, at), state, x)

    with full_precision(x.device):
        call = seconds(product, 5)
    took = seconds(lambda: made.bits_per_dim(images, method="midpoint", nfe=NFE), 1)
    says = f"bits/dim at 64 px, k = 1, fp32, midpoint, NFE {NFE}: {1000 * took / SAMPLES:.1f} ms an image"
    yield says, f"{NFE} bare calls with a vector-Jacobian product", took / call / NFE


SECTIONS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "ceilings": lambda data: ceilings(),
    "training": training,
    "ways": ways,
    "profile": profile,
    "sampling": sampling,
    "likelihood": likelihood,
    "curves": curves,
}


def main(data: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    name = torch.cuda.get_device_name() if GPU else "no GPU: tiny sizes, and figures that mean nothing"
    print(f"{name}, Python {platform.python_version()}, torch {torch.__version__}\n")
    print("| ours | peer or limit | ours / peer |\n| --- | --- | --- |")
    for section in names or SECTIONS:
        try:
            for ours, peer, ratio in SECTIONS[section](data):
                print(f"| {ours} | {peer} | {ratio:.3g} |", flush=True)
        except Exception:  # the others still tell something
            traceback.print_exc()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

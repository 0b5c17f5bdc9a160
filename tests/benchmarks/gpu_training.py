"""Training steps on one GPU, against a bare loop and with one thing otherwise; sections of `tests.benchmarks.gpu`."""

import os
import re
import statistics
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from fm.checkpoints import Store
from fm.data import ShardedImages
from fm.models.cost import H100_FLOPS, cost
from fm.pairing import stream_of
from fm.parallel import ALONE, parts
from fm.progress import Progress, Started
from fm.recipe import Recipe
from fm.training import train
from tests.benchmarks.gpu_timing import DEVICE, GPU, arithmetic, matmul_flops, network, seconds, synchronize
from tests.benchmarks.timing import Row

# One GPU's share of the preset's batch, as if it were one of so many.
SHARES = {"imagenet32": 4, "imagenet64": 16, "imagenet128": 32, "cifar10": 2, "tiny": 8}
TF32, COMPILED = "training.precision=tf32", "training.compile=true"
CASES: list[tuple[str, ...]] = [
    *(("imagenet32",), ("imagenet32", TF32), ("cifar10",), ("cifar10", TF32)),
    *(("imagenet64",), ("imagenet64", COMPILED), ("imagenet128",), ("imagenet128", COMPILED)),
]
if not GPU:
    CASES = [("tiny",), ("tiny", TF32)]
WAYS_OF = "imagenet64" if GPU else "tiny"
WARM, STEPS = (3, 8) if GPU else (2, 2)
Change = Callable[[nn.Module], object]


def share_of(preset: str, *changes: str) -> Recipe:
    """The preset with one GPU's share as its batch, a report every step, and no end."""
    images = max(1, Recipe.load(preset).training.batch_images // SHARES.get(preset, 1))
    fixed = {"training.batch_images": images, "training.report_images": images}
    fixed |= {"training.save_images": 10**12, "training.total_images": 10**9}
    return Recipe.load(preset, [*(f"{name}={value}" for name, value in fixed.items()), *changes])


@dataclass
class Measured:
    """A loop's steps by the clock; `losses` of every step."""

    step_s: float
    first_s: float  # from the start to the end of the first step: what is compiled or tried is in it
    wait_s: float  # of a step, for its batch
    micro_batch: int
    peak_bytes: int
    losses: list[float] = field(default_factory=list)


class Waited:
    """A stream of batches that notes how long each was waited for."""

    def __init__(self, stream: Iterator[Any]) -> None:
        self.stream = stream
        self.seconds: list[float] = []

    def __iter__(self) -> "Waited":
        return self

    def __next__(self) -> Any:
        start = time.perf_counter()
        batch = next(self.stream)
        self.seconds.append(time.perf_counter() - start)
        return batch


def loop(
    recipe: Recipe,
    data: Path,
    change: Change = lambda model: None,
    steps: int = STEPS,
    inside: Callable[[], Any] = nullcontext,
    inside_all: Any = None,
) -> Measured:
    """The project's own loop on real shards; `inside` is entered around the last step (a profiler)."""
    model, objective = network(recipe)
    change(model)
    dataset, waits = ShardedImages(data / str(recipe.data.size), "train"), []
    stream = stream_of(dataset, recipe.training, ALONE, conditional=False, device=DEVICE)

    def batches(start: int) -> Waited:
        waits.append(Waited(stream(start)))
        return waits[0]

    if GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    losses: list[float] = []
    marks, micro_batch = [time.perf_counter()], 0
    with tempfile.TemporaryDirectory() as run, inside_all or nullcontext():
        events = train(model, objective, recipe.training, batches, Store(run), device=DEVICE)
        while len(losses) < WARM + steps:
            with inside() if len(losses) == WARM + steps - 1 else nullcontext():
                event = next(events)
            if isinstance(event, Started):
                micro_batch = event.micro_batch_images
            if isinstance(event, Progress):
                losses.append(event.loss)
                marks.append(time.perf_counter())
        del events  # no checkpoint
    peak = torch.cuda.max_memory_allocated() if GPU else 0
    step_s = statistics.median(b - a for a, b in zip(marks[WARM:], marks[WARM + 1 :], strict=False))
    waited = statistics.median(waits[0].seconds[WARM:])
    return Measured(step_s, marks[1] - marks[0], waited, micro_batch, peak, losses)


@cache
def bare(preset: str, precision: str, micro_batch: int) -> float:
    """Seconds of a step as a notebook has it: autocast, clipping, fused Adam, an average by foreach; fixed pictures."""
    recipe = share_of(preset, f"training.precision={precision}")
    settings, (model, _) = recipe.training, network(recipe)
    weights: list[Tensor] = list(model.train().parameters())
    adam = torch.optim.Adam(weights, settings.learning_rate, fused=True)
    average = [p.detach().clone() for p in weights]
    x = torch.randn(settings.batch_images, *recipe.data.shape, device=DEVICE)

    def step() -> None:
        adam.zero_grad()
        for part in parts(len(x), micro_batch):
            z, t = torch.randn_like(x[part]), torch.rand(len(x[part]), device=DEVICE)
            at = t[:, None, None, None]
            with torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bf16"):
                error = model(at * x[part] + (1 - at) * z, t) - (x[part] - z)
                loss = error.square().sum() / x.numel()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, settings.clip_norm or 1.0)
        adam.step()
        torch._foreach_lerp_(average, weights, 0.01)

    with arithmetic(tf32=precision == "tf32"):
        for _ in range(WARM):
            step()
        return seconds(step, STEPS)


def training(data: Path) -> Iterator[Row]:
    """The loop against the bare loop and against what the GPU can give; the wait for a batch in a step."""
    for preset, *changes in CASES:
        try:
            yield from case(data, preset, *changes)
        except Exception:  # the others still tell something
            traceback.print_exc()


def case(data: Path, preset: str, *changes: str) -> Iterator[Row]:
    recipe = share_of(preset, *changes)
    settings, images = recipe.training, recipe.training.batch_images
    torch.compiler.reset()
    ours = loop(recipe, data)
    peer = bare(preset, settings.precision, ours.micro_batch)
    with torch.device("meta"):
        counted = cost(recipe.build(recipe.data.shape, None)[0], recipe.data.size)
    rate, best = counted.training_flops(images) / ours.step_s, matmul_flops(settings.precision)
    name = f"{preset}, {settings.precision}{', compiled' * settings.compile}"
    says = f"{name}, {counted.parameters / 1e6:.0f} M weights, {images} images"
    says += f" ({ours.micro_batch} at once)" if ours.micro_batch < images else ""
    says += f" (first step {ours.first_s:.0f} s)" if settings.compile else ""
    limit = f"bare loop, not compiled, {1000 * peer:.0f} ms (limit 1.03)"
    yield f"{says}: step {1000 * ours.step_s:.0f} ms", limit, ours.step_s / peer
    speed = f"{images / ours.step_s:.0f} images/s, {rate / 1e12:.0f} TFLOP/s, {ours.peak_bytes / 2**30:.1f} GiB"
    product = f"product in {settings.precision} {best / 1e12:.0f} TFLOP/s; {rate / H100_FLOPS:.1%} of the data sheet"
    yield f"{name}: {speed}", product, rate / best
    wait = f"{name}, {recipe.data.encoding} shards: wait for a batch {1000 * ours.wait_s:.2f} ms"
    yield wait, f"step {1000 * ours.step_s:.0f} ms", ours.wait_s / ours.step_s


def channels_last(model: nn.Module) -> None:
    model.to(memory_format=torch.channels_last)


@contextmanager
def any_order() -> Iterator[None]:
    with (
        mock.patch("fm.training.as_asked", lambda *_, **__: nullcontext()),
        mock.patch("fm.training.backward", lambda loss, _: loss.backward()),
    ):
        yield


def ways(data: Path) -> Iterator[Row]:
    """A step with one thing otherwise, over the step as it is."""
    recipe = share_of(WAYS_OF)
    as_is = loop(recipe, data)
    others: dict[str, Callable[[], Measured]] = {
        "cudnn.benchmark": lambda: loop(recipe, data, inside_all=arithmetic(benchmark=True)),
        "channels_last, not compiled": lambda: loop(recipe, data, channels_last),
        "convolutions and attention in any order": lambda: loop(recipe, data, inside_all=any_order()),
    }
    for name, measure in others.items():
        found = measure()
        says = f"{WAYS_OF}, {name}: step {1000 * found.step_s:.0f} ms, {found.peak_bytes / 2**30:.1f} GiB"
        before = f"as it is {1000 * as_is.step_s:.0f} ms, {as_is.peak_bytes / 2**30:.1f} GiB"
        yield says, before, found.step_s / as_is.step_s


KERNELS = {
    "fused by torch.compile": r"triton",
    "Adam, average, clipping": r"adam|lerp|multi_tensor",
    "attention": r"flash|fmha|attention|mem_eff",
    "layout of images": r"nchwtonhwc|nhwctonchw|transpose",
    "group norm": r"groupnorm|group_norm|rowwisemoments|computeinternalgrad|computebackwardfused|gammabeta",
    "convolution": r"conv|fprop|dgrad|wgrad|implicit|cudnn|xmma",
    "matrix product": r"gemm|nvjet|cutlass|splitk",
    "copies, casts, joins": r"copy|cat|memcpy|memset|fill",
    "elementwise and sums": r"elementwise|reduce",
}


def profile(data: Path) -> Iterator[Row]:
    """The time of one step's kernels by what they do, as it is and compiled; the long lists go to FM_BENCH."""
    for changes in ((), (COMPILED,)):
        torch.compiler.reset()
        yield from kernels(data, *changes)


def kernels(data: Path, *changes: str) -> Iterator[Row]:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if GPU else [])]
    seen = []

    @contextmanager
    def recorded() -> Iterator[None]:
        with profiler(activities=kinds) as made:
            yield
            synchronize()
        seen.append(made)

    took = loop(share_of(WAYS_OF, *changes), data, inside=recorded)
    events = seen[0].key_averages()
    place = Path(os.environ.get("FM_BENCH", tempfile.gettempdir()))
    name_of = WAYS_OF + ", compiled" * bool(changes)
    (place / f"{name_of}.txt").write_text(events.table(sort_by=f"self_{DEVICE}_time_total", row_limit=60))
    sums: Counter[str] = Counter()
    for event in events:
        if event.device_type == (torch.autograd.DeviceType.CUDA if GPU else torch.autograd.DeviceType.CPU):
            names = (kind for kind, pattern in KERNELS.items() if re.search(pattern, event.key.lower()))
            sums[next(names, "other")] += event.self_device_time_total if GPU else event.self_cpu_time_total
    for kind, spent in sums.most_common():
        says = f"{name_of}, {kind}: {spent / 1000:.1f} ms"
        yield says, f"kernels of a step {sums.total() / 1000:.0f} ms", spent / sums.total()
    says = f"{name_of}, all kernels: {sums.total() / 1000:.0f} ms"
    yield says, f"step by the clock {1000 * took.step_s:.0f} ms", sums.total() / 1e6 / took.step_s


def curves(data: Path) -> Iterator[Row]:
    """200 steps in bf16 and in fp32, with the same draws."""
    small = ["training.batch_images=64", "training.report_images=64", "training.warmup_images=0"]
    name, steps = ("cifar10-otcfm", 200) if GPU else ("tiny", 4)
    found = {}
    for precision in ("fp32", "bf16"):
        wanted = [*small, "training.coupling=independent", f"training.precision={precision}"]
        with arithmetic():
            found[precision] = loop(share_of(name, *wanted), data, steps=steps).losses
    last = {kind: statistics.mean(losses[-steps // 2 :]) for kind, losses in found.items()}
    apart = max(abs(b / a - 1) for a, b in zip(found["fp32"], found["bf16"], strict=True))
    says = f"{name}, {steps} steps in bf16: loss of the last half {last['bf16']:.4f} (a step's at most {apart:.1%} off)"
    yield says, f"in fp32 {last['fp32']:.4f}", last["bf16"] / last["fp32"]

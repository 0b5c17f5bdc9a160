"""Whether a training suits the device it is about to start on: the memory it takes, the arithmetic it asks for.

Memory is counted from below (what must be there at once), so that nothing is refused that would run. What is offered
in place of what is refused is counted from above, so that it runs.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fm.errors import SettingsError, several
from fm.models.cost import taken
from fm.models.recomputing import blocks
from fm.training import Training

ABOVE = 2  # times an image's counted bytes: convolutions and the allocator took 1.8 GiB where 1.2 were counted
FLOAT = 4  # bytes of a weight, gradient, moment or average
GIB = 2**30


@dataclass(frozen=True)
class Footprint:
    """Bytes on each worker. `image` is what the backward pass needs of one image between the two passes."""

    weights: int
    gradients: int
    optimiser: int
    averages: int
    image: int = 0

    @property
    def fixed(self) -> int:
        """What does not depend on how many images are held at once."""
        return self.weights + self.gradients + self.optimiser + self.averages

    def with_images(self, images: int) -> int:
        return self.fixed + self.image * images

    def images(self, free: int) -> int:
        """How many images at once fit into so much; 0 or less: not one."""
        return (free - self.fixed) // max(1, self.image)


@dataclass(frozen=True)
class Activations:
    """Bytes of one image that wait for the backward pass: all of them; or the blocks' inputs and the largest block."""

    kept: int
    recomputed: int

    def of(self, settings: Training) -> int:
        """At least these, in bf16 half of them."""
        found = self.recomputed if settings.checkpoint_activations else self.kept
        return found // 2 if settings.precision == "bf16" else found


def footprint(parameters: int, settings: Training, workers: int, image: int = 0) -> Footprint:
    """Of a network with so many parameters; with FSDP a worker holds its share of them."""
    weights = FLOAT * parameters // (workers if settings.fsdp else 1)
    return Footprint(weights, weights, 2 * weights, weights * _averages(settings), image)


def checkpoint_bytes(parameters: int, settings: Training) -> int:
    """Whole, however many workers hold shards of it: weights, two moments, averages."""
    return FLOAT * parameters * (3 + _averages(settings))


def _averages(settings: Training) -> int:
    return len(settings.ema_halflife_kimg) + len(settings.ema_lengths or ())


def activations(model: nn.Module, shape: tuple[int, ...]) -> Activations:
    """Counted in one forward pass of one image, on the model's own device, meta too; parameters are left out.

    A CPU's own ways to the same numbers make a few per cent more or less than the pass on the meta device.
    """
    parts = blocks(model)
    inside: list[dict[int, int]] = [{} for _ in range(len(parts) + 1)]  # storage -> bytes; the last: outside of all
    inputs: dict[int, int] = {}
    held: list[Tensor] = []  # so that no storage's address is used again
    current = len(parts)
    own = {address(p) for p in model.parameters()}

    def note(tensor: Tensor, into: dict[int, int]) -> None:
        if address(tensor) not in own:
            held.append(tensor)
            into[address(tensor)] = tensor.untyped_storage().nbytes()

    def pack(tensor: Tensor) -> Tensor:
        note(tensor, inside[current])
        return tensor

    def enter(index: int, arguments: tuple[Any, ...]) -> None:
        nonlocal current
        current = index
        for tensor in arguments:
            note(tensor, inputs)

    def leave() -> None:
        nonlocal current
        current = len(parts)

    handles = []
    for index, part in enumerate(parts):
        handles.append(part.register_forward_pre_hook(lambda _, arguments, index=index: enter(index, arguments)))
        handles.append(part.register_forward_hook(lambda *_: leave()))
    like = next(model.parameters())
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(like.new_zeros(1, taken(model, shape[0]), *shape[1:]), like.new_zeros(1))
    for handle in handles:
        handle.remove()
    outside = inside.pop()
    kept = {**outside, **{k: n for part in inside for k, n in part.items()}}
    largest = max((sum(part.values()) for part in inside), default=0)
    return Activations(sum(kept.values()), sum({**outside, **inputs}.values()) + largest)


class _Live(TorchDispatchMode):
    """Bytes of the storages that are alive, and the most that ever were: each operation's results, until none of the
    tensors on them is left."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.most = 0, 0
        self._tensors: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return out

    def _note(self, tensor: Tensor) -> None:
        at, size = address(tensor), tensor.untyped_storage().nbytes()
        self._tensors[at] = self._tensors.get(at, 0) + 1
        if self._tensors[at] == 1:
            self.bytes += size
            self.most = max(self.most, self.bytes)
        finalize(tensor, self._gone, at, size)

    def _gone(self, at: int, size: int) -> None:
        self._tensors[at] -= 1
        if not self._tensors[at]:
            del self._tensors[at]
            self.bytes -= size


SOLVER_STATES = 12  # of dopri5: seven stages, two states, what is summed


def sampling_bytes(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Bytes that one image takes while it is drawn: the most that lives at once in a pass without gradients, and the
    solver's states. Counted in a pass of one image on the model's own device, meta too; kernels may want some more."""
    like, live = next(model.parameters()), _Live()
    x, t = like.new_zeros(1, taken(model, shape[0]), *shape[1:]), like.new_zeros(1)
    with torch.no_grad(), live:
        model(x, t)
    return live.most + FLOAT * (SOLVER_STATES * math.prod(shape) + x.numel())


def batch_that_fits(model: nn.Module, shape: tuple[int, ...], device: str | torch.device, most: int) -> int:
    """How many images may be drawn at once in the memory that is free, at most `most`, at least one."""
    return max(1, min(most, free_bytes(device, 1) // (ABOVE * sampling_bytes(model, shape))))


def address(tensor: Tensor) -> int:
    """Of the storage itself: the memory behind it is at 0 on the meta device."""
    return tensor.untyped_storage()._cdata


def free_bytes(device: str | torch.device, workers_here: int) -> int:
    """Memory that one of the workers on this machine can have; GPUs are not shared."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available // workers_here


def workers_here(workers: int) -> int:
    """How many of the workers are on this machine, as torchrun and Ray say."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", workers))


def lacking(settings: Training, device: str | torch.device) -> str:
    """What keeps the device from the training's arithmetic, in words: bf16 that it imitates takes many times longer."""
    if settings.precision != "bf16":
        return ""
    if torch.device(device).type == "cuda":
        native, what = torch.cuda.is_bf16_supported(including_emulation=False), torch.cuda.get_device_name(device)
    else:
        native = any(has for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
        what = "this CPU (no AVX-512 BF16, no AMX)"
    return "" if native else f"{what} has no bf16"


def fitting(
    build: Callable[[], tuple[nn.Module, Any]],
    shape: tuple[int, ...],
    settings: Training,
    workers: int,
    device: str | torch.device,
) -> tuple[nn.Module, Any]:
    """What `build` makes, network first: refused before its weights are made, or before the first step.

    Raises: SettingsError, as `check_fits`.
    """
    free = free_bytes(device, workers_here(workers))
    with torch.device("meta"):
        model = build()[0]
    # A pass on the meta device loads torch's compiler, 4 CPU seconds: only where something is in the way already.
    if lacking(settings, device) or footprint(size(model), settings, workers).fixed > free:
        check_fits(size(model), activations(model, shape), settings, workers, device, free)
    built = build()
    check_fits(size(built[0]), activations(built[0], shape), settings, workers, device, free)
    return built


def size(model: nn.Module) -> int:
    """How many parameters it has."""
    return sum(p.numel() for p in model.parameters())


def check_fits(
    parameters: int,
    held: Activations,
    settings: Training,
    workers: int,
    device: str | torch.device,
    free: int,
) -> None:
    """Of a device with `free` bytes for each worker.

    Raises: SettingsError with all that is in the way at once, and one combination of options that would run.
    """
    options, found = [], []
    if lacks := lacking(settings, device):
        found.append(lacks)
        options.append("--set training.precision=fp32")
        settings = settings.model_copy(update={"precision": "fp32"})
    # A GPU says when it is full, and the loop takes fewer images; on a CPU the system kills the process.
    on_cpu = torch.device(device).type == "cpu"
    images = at_once(settings, workers) if on_cpu else 1
    need = footprint(parameters, settings, workers, held.of(settings))
    if need.with_images(images) > free:
        way = options_that_fit(parameters, held, settings, workers, free, on_cpu)
        options = [*options, *way] if way else []
        found.append(
            f"{need.fixed / GIB:.1f} GiB are needed for weights, gradients, optimiser and averages and "
            f"{need.image * images / GIB:.1f} GiB for {several(images, 'image')} at once, "
            f"{free / GIB:.1f} GiB are free for {'each of ' * (workers > 1)}{several(workers, 'worker')}"
        )
    if found:
        mend = f"add {' '.join(options)}" if options else "take a smaller network, or more memory"
        raise SettingsError(", and ".join(found), where="training", mend=mend)


def at_once(settings: Training, workers: int) -> int:
    """Images that a worker holds at once, if they fit."""
    share = -(-settings.batch_images // workers)
    return min(share, settings.micro_batch_images or share)


def options_that_fit(
    parameters: int, held: Activations, settings: Training, workers: int, free: int, on_cpu: bool
) -> list[str]:
    """The least change that would run, none if nothing would: fewer images at once, what saves memory for time, and
    fewer workers, where all share the memory of this machine."""
    shared = on_cpu and workers_here(workers) == workers
    for fewer in range(workers, 0, -1) if shared else [workers]:
        for names in ((), ("checkpoint_activations",), ("fsdp",), ("checkpoint_activations", "fsdp")):
            changed = settings.model_copy(update=dict.fromkeys(names, True))
            alone = "fsdp" in names and fewer == 1
            unequal = changed.fsdp and settings.batch_images % fewer
            if alone or unequal or any(getattr(settings, name) for name in names):
                continue
            # Of a sharded state the first worker gathers the whole for each checkpoint, in the machine's memory.
            whole = checkpoint_bytes(parameters, settings) if changed.fsdp and on_cpu else 0
            need = footprint(parameters, changed, fewer, held.of(changed))
            images = need.images(free * workers // fewer - whole) // ABOVE
            if images < 1:
                continue
            options = [f"--set training.{name}=true" for name in names]
            options += [f"--set training.micro_batch_images={images}"] * (images < at_once(changed, fewer))
            return options + [f"--workers {fewer}"] * (fewer < workers)
    return []

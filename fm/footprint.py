"""Whether a training suits the device it is about to start on: the memory it takes, the arithmetic it asks for.

Memory is counted from below (what must be there at once), so that nothing is refused that would run. What is offered
in place of what is refused is counted from above, so that it runs.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fm.errors import SettingsError
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
    return Footprint(weights, weights, 2 * weights, weights * len(settings.ema_halflife_kimg), image)


def activations(model: nn.Module, shape: tuple[int, ...]) -> Activations:
    """Measured by one forward pass of one image, on the model's own device; parameters are not counted."""
    parts = blocks(model)
    inside: list[dict[int, int]] = [{} for _ in range(len(parts) + 1)]  # storage -> bytes; the last is outside of all
    inputs: dict[int, int] = {}
    held: list[Tensor] = []  # so that no storage's address is used again
    current = len(parts)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(tensor: Tensor, into: dict[int, int]) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held.append(tensor)
            into[storage.data_ptr()] = storage.nbytes()

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
        model(like.new_zeros(1, *shape), like.new_zeros(1))
    for handle in handles:
        handle.remove()
    outside = inside.pop()
    kept = {**outside, **{k: n for part in inside for k, n in part.items()}}
    largest = max((sum(part.values()) for part in inside), default=0)
    return Activations(sum(kept.values()), sum({**outside, **inputs}.values()) + largest)


def free_bytes(device: str | torch.device, workers_here: int) -> int:
    """Memory that one of the workers on this machine can have; GPUs are not shared."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available // workers_here


def workers_here(workers: int) -> int:
    """How many of the workers are on this machine, as torchrun and Ray say."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", workers))


def check_precision(settings: Training, device: str | torch.device) -> None:
    """Raises: SettingsError if bf16 is asked of a device that only imitates it, many times slower than fp32."""
    if settings.precision == "fp32":
        return
    if torch.device(device).type == "cuda":
        native, what = torch.cuda.is_bf16_supported(including_emulation=False), torch.cuda.get_device_name(device)
    else:
        native = any(has for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
        what = "this CPU (no AVX-512 BF16, no AMX)"
    if not native:
        raise SettingsError(f"{what} has no bf16", "training.precision", "take training.precision=fp32")


def fitting(
    build: Callable[[], tuple[nn.Module, Any]],
    shape: tuple[int, ...],
    settings: Training,
    workers: int,
    device: str | torch.device,
) -> tuple[nn.Module, Any]:
    """What `build` makes, network first: refused before its weights are made, or before the first step.

    Raises: SettingsError, if the training cannot fit into the memory that is free, with the settings that would; for
    an arithmetic that the device does not have.
    """
    check_precision(settings, device)
    free = free_bytes(device, workers_here(workers))
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build()[0].parameters())
    check_memory(parameters, None, settings, workers, device, free)
    built = build()
    check_memory(parameters, activations(built[0], shape), settings, workers, device, free)
    return built


def check_memory(
    parameters: int,
    held: Activations | None,
    settings: Training,
    workers: int,
    device: str | torch.device,
    free: int,
) -> None:
    """Raises: SettingsError if each worker needs more than `free` bytes; without `held` it is of no images yet."""
    # A GPU says when it is full, and the loop takes fewer images; on a CPU the system kills the process.
    images = 1 if torch.device(device).type == "cuda" else at_once(settings, workers)
    need = footprint(parameters, settings, workers, held.of(settings) if held else 0)
    if need.with_images(images) <= free:
        return
    on_cpu = torch.device(device).type == "cpu"
    ways = list(_ways(parameters, held, settings, workers, free, on_cpu))
    if on_cpu:
        ways += _fewer_workers(parameters, held, settings, workers, free)
    of_images = f" and {need.image * images / GIB:.1f} GiB for {images} images at once" if held else ""
    raise SettingsError(
        f"needs {need.fixed / GIB:.1f} GiB for weights, gradients, optimiser and averages{of_images}, "
        f"and {free / GIB:.1f} GiB are free for each of {workers} workers",
        where="training",
        mend=", or ".join(ways) or "take a smaller network, or more memory",
    )


def at_once(settings: Training, workers: int) -> int:
    """Images that a worker holds at once, if they fit."""
    share = -(-settings.batch_images // workers)
    return min(share, settings.micro_batch_images or share)


def _ways(
    parameters: int, held: Activations | None, settings: Training, workers: int, free: int, on_cpu: bool
) -> Iterator[str]:
    """What would fit, the least change first."""
    for names in ((), ("checkpoint_activations",), ("fsdp",), ("checkpoint_activations", "fsdp")):
        changed = settings.model_copy(update=dict.fromkeys(names, True))
        need = footprint(parameters, changed, workers, held.of(changed) if held else 0)
        words = [f"training.{name}=true" for name in names if not getattr(settings, name)]
        # Of a sharded state the first worker gathers the whole for each checkpoint, in the machine's memory.
        whole = FLOAT * parameters * (3 + len(settings.ema_halflife_kimg)) if changed.fsdp and on_cpu else 0
        images = need.images(free - whole) // ABOVE
        if images < 1 or len(words) < len(names):
            continue
        if held and images < at_once(settings, workers):
            words.append(f"training.micro_batch_images={images}")
        yield "set " + " and ".join(words)
        return


def _fewer_workers(
    parameters: int, held: Activations | None, settings: Training, workers: int, free: int
) -> Iterator[str]:
    """The most workers that would fit, where all share the memory of this machine."""
    image = held.of(settings) if held else 0
    for fewer in range(workers - 1, 0, -1) if workers_here(workers) == workers else ():
        if (
            footprint(parameters, settings, fewer, image).with_images(ABOVE * at_once(settings, fewer))
            <= free * workers // fewer
        ):
            yield f"take {fewer} worker" + ("s" if fewer > 1 else "")
            return

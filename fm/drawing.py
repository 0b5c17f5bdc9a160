"""What is random in a training step, all of it by stream position: the same for any rank, micro-batch or resume.

`settings` are those of `fm.training`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fm import noise
from fm.enlarging import enlarged
from fm.errors import SettingsError
from fm.objectives import Objective, drop_labels
from fm.pixels import to_unit
from fm.times import stratified

DRAWN = "drawn"  # the stream of the noises that images were drawn from: none that a network was trained with
Inputs = tuple[Tensor, dict[str, Any]]


def drawn(batch: Any, part: slice, model: nn.Module, objective: Objective, settings: Any) -> Inputs:
    """x_1 of a part of the batch, and by name what the objective's loss takes beside it, on the model's device: t, z, y
    and cond, and where the objective jumps the times s to jump to."""
    positions, noises = batch.positions[part], noises_of(batch, settings)[part]
    images, labels = batch.images[part], batch.labels[part] if is_conditional(model) else None
    like, low = next(model.parameters()), getattr(batch, "low", None)
    cond = None if low is None else condition_at(low[part], positions, images.shape[-1], settings, like)
    x_1, t, z, y = draw(images, labels, positions, noises, objective, settings, like)
    told = {"t": t, "z": z, "y": y, "cond": cond}
    return x_1, told | (jump(t, positions, objective, settings) if objective.jumps else {})


def jump(t: Tensor, positions: Tensor, objective: Any, settings: Any) -> dict[str, Tensor]:
    """t and s: of the objective's share two times of one law in their order, of the others s = t."""
    other = settings.times.at(noise.uniforms(settings.seed, "s", positions, ()), objective.path.t_max)
    other = torch.where(noise.uniforms(settings.seed, "jump", positions, ()) < objective.share, other, t)
    return {"t": torch.minimum(t, other), "s": torch.maximum(t, other)}


def is_conditional(model: nn.Module) -> bool:
    """Whether the network takes labels."""
    return getattr(model, "classes", None) is not None


def noises_of(batch: Any, settings: Any) -> Tensor:
    """The numbers of the noises that go with the images of a batch: their own stream positions, unless a coupling says
    otherwise; of drawn images those of the images."""
    if settings.drawn_by:
        return batch.indices
    if settings.coupling == "independent":
        return batch.positions
    if not hasattr(batch, "noises"):
        raise SettingsError(
            "the batches do not say which noise goes with which image",
            where="training.coupling",
            mend="make them by fm.pairing.paired",
        )
    return batch.noises


def draw(
    images: Tensor,
    labels: Tensor | None,
    positions: Tensor,
    noises: Tensor,
    objective: Objective,
    settings: Any,
    like: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """x_1, t, z, y of one part: all that is random follows from seed, stream and stream position; z from `noises`."""
    seed, device = settings.seed, like.device
    x_1 = data_at(images, positions, settings, device).to(like.dtype)
    z = noise.draws(seed, DRAWN if settings.drawn_by else "z", noises, x_1.shape[1:], device).to(like.dtype)
    # t stays on the CPU, where its range is checked without a wait for the device.
    u = noise.uniforms(seed, "t", positions, ())
    if settings.stratify:
        u = stratified(u, positions, settings.batch_images)
    t = settings.times.at(u, objective.path.t_max)
    y = None if labels is None else labels.to(device, non_blocking=True)
    if y is not None and settings.label_drop:
        y = drop_labels(y, noise.uniforms(seed, "drop", positions, (), device), settings.label_drop)
    return x_1, t, z, y


def data_at(images: Tensor, positions: Tensor, settings: Any, device: str | torch.device) -> Tensor:
    """x_1 at stream positions: uint8 images flipped and dequantised; floats flipped only."""
    images = _flipped(images, positions, settings, device)
    if images.dtype == torch.uint8:
        images = to_unit(images, noise.uniforms(settings.seed, "u", positions, images.shape[1:], device))
    return images


def condition_at(low: Tensor, positions: Tensor, side: int, settings: Any, like: Tensor) -> Tensor:
    """The enlarged small pictures (b, channels, side, side) of these stream positions, mirrored as their images are."""
    return enlarged(_flipped(low, positions, settings, like.device), side).to(like.dtype)


def _flipped(images: Tensor, positions: Tensor, settings: Any, device: str | torch.device) -> Tensor:
    images = images.to(device, non_blocking=True).contiguous()
    if not settings.flips:
        return images
    mirrored = noise.uniforms(settings.seed, "flip", positions, (), device) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)

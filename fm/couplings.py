"""Which noise goes with which image: each coupling returns a permutation, so every noise and every image is used once.

(torchcfm samples its plan with replacement, which drops about 37 % of each batch.) Which samples are matched with each
other is left to `pairing.py`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fm import plugins
from fm.errors import ValueUserError

Coupling = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def independent(z: Tensor, x_1: Tensor, y: Tensor | None = None) -> Tensor:
    """The identity: noise i goes with image i."""
    _checked(z, x_1, y)
    return torch.arange(len(z), device=z.device)


def minibatch_ot(z: Tensor, x_1: Tensor, y: Tensor | None = None) -> Tensor:
    """The permutation with the least total squared distance |z[p] - x_1|^2 (Tong et al. 2024), an exact assignment.

    With labels y (batch,) noises move only among images of one label: otherwise the noise would tell the label and a
    conditional model would be trained on a source that is not the one it samples from.
    """
    _checked(z, x_1, y)
    labels = torch.zeros(len(z), dtype=torch.long) if y is None else y.cpu()
    permutation = torch.arange(len(z))
    for label in labels.unique():
        rows = (labels == label).nonzero().squeeze(1)
        permutation[rows] = rows[_assignment(z[rows.to(z.device)], x_1[rows.to(x_1.device)])]
    return permutation.to(z.device)


def _assignment(z: Tensor, x_1: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    # |z - x|^2 differs from -2 <z, x> by terms that no permutation changes.
    cost = -(x_1.flatten(1).double() @ z.flatten(1).double().T)
    return torch.from_numpy(linear_sum_assignment(cost.cpu().numpy())[1])


def _checked(z: Tensor, x_1: Tensor, y: Tensor | None) -> None:
    if z.shape != x_1.shape:
        raise ValueUserError(f"noise of shape {tuple(z.shape)} given for images of shape {tuple(x_1.shape)}")
    for what, x in (("noise", z), ("images", x_1)):
        if not x.is_floating_point():
            raise ValueUserError(f"{what} of dtype {x.dtype} given where floats are due")
        finite = x.flatten(1).isfinite().all(1)
        if not finite.all():
            raise ValueUserError(f"{what} not finite", where=f"sample {int((~finite).int().argmax())}")
    if y is not None and y.shape != (len(z),):
        raise ValueUserError(f"labels of shape {tuple(y.shape)} given for {len(z)} images")


# The persistent one is the exact assignment too, of noises that stay with their images: `persistent.py`.
COUPLINGS: dict[str, Coupling] = {
    "independent": independent,
    "minibatch_ot": minibatch_ot,
    "persistent_ot": minibatch_ot,
}
PERSISTENT = ("persistent_ot",)


def coupling(name: str) -> Coupling:
    """The coupling of that name, or at that import path.

    Raises: SettingsError that names the nearest.
    """
    due = plugins.Due("a function of (z, x_1, y) that returns a permutation", callable)
    return plugins.member(name, COUPLINGS, due, "coupling", "training.coupling")

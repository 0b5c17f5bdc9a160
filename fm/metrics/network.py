"""A feature network: what is known of it before it is loaded, and the loaded one. Which ones there are is not here."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from fm.arithmetic import full_precision
from fm.errors import ValueUserError
from fm.lineage import digest
from fm.metrics.weights import Source

BATCH = 8  # about the fastest on a CPU core at 128 px: larger ones leave the cache


@dataclass(frozen=True)
class Features:
    """A loaded feature network: `features(images)` gives float32 (n, d) on the CPU for uint8 (n, c, h, w) of any size.

    `weights` identifies the network's file, `preprocessing` says in words what is done to a picture first. The network
    gets uint8 (batch, 3, h, w), grey as RGB, and computes in float32 without TF32.
    """

    name: str
    weights: str
    preprocessing: str
    network: Callable[[Tensor], Tensor]
    device: str = "cpu"
    batch: int = BATCH

    @property
    def identity(self) -> str:
        """What decides their values: network, weights, preprocessing. One file may serve several."""
        return digest(self.name, self.weights, self.preprocessing)

    def __call__(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueUserError(
                f"{images.dtype} of shape {tuple(images.shape)} given where uint8 (n, 1 or 3, height, width) is due"
            )
        with torch.inference_mode(), full_precision(torch.device(self.device)):
            return torch.cat([self._one(part) for part in images.expand(-1, 3, -1, -1).split(self.batch)])

    def _one(self, part: Tensor) -> Tensor:
        return self.network(part.to(self.device)).float().cpu()


@dataclass(frozen=True)
class FeatureNetwork:
    """A feature network before it is loaded.

    `build(content, device)` makes the function of `Features.network` from the weights' bytes.
    """

    name: str
    weights: Source
    preprocessing: str
    dimensions: int
    build: Callable[[bytes, str], Callable[[Tensor], Tensor]]
    batch: int = BATCH

    def load(self, device: str = "cpu") -> Features:
        """Ready on the device.

        Raises: UserError if its weights or a package are missing, or are others than published.
        """
        network = self.build(self.weights.read(), device)
        return Features(self.name, self.weights.sha256, self.preprocessing, network, device, self.batch)

    def known(self, device: str = "cpu") -> Features:
        """The same, loaded at its first picture: to look up what was computed before, on that device."""
        loaded = cache(lambda: self.build(self.weights.read(), device))
        return Features(
            self.name, self.weights.sha256, self.preprocessing, lambda images: loaded()(images), device, self.batch
        )

"""Where a recipe runs and on which pictures, as a form or a command asks for it."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fm.data.sources import KEEPABLE
from fm.errors import SettingsError
from fm.settings import Settings

# Prefect keeps parameters in clear: a signature comes by the environment, FM_SOURCE_QUERY.
Pictures = Annotated[str, Field(pattern=KEEPABLE)]


class Place(Settings):
    """Where a recipe runs; nothing here changes what is trained or measured beyond rounding."""

    address: str = Field(
        default="",
        title="Ray address",
        description="Address of a Ray cluster (host:port). Empty: the services' Ray, or one started on this machine.",
    )
    workers: int = Field(default=2, ge=1, le=4096, title="Workers", description="Training processes, 1 to 4096.")
    fewest_workers: int = Field(
        default=0,
        ge=0,
        le=4096,
        title="Fewest workers",
        description="Goes on with as few after a loss, and with more when they are back; 0: exactly as many as asked.",
    )
    gpus: Literal["auto", "all", "none"] = Field(
        default="auto",
        title="GPUs",
        description="auto: one GPU for each worker where the cluster has them; all: nothing else; none: CPUs.",
    )
    wait_s: float = Field(
        default=60.0,
        ge=0,
        title="Wait for slots",
        description="Seconds to wait until the cluster has a free slot for each worker, from 0.",
    )
    silent_s: float = Field(
        default=3600.0,
        ge=0,
        title="Longest silence",
        description="Seconds after which a training whose workers say nothing is ended, and a shard or a part of an "
        "evaluation that computes nothing any more tried once more, from 0; 0: never.",
    )
    cache: str = Field(
        default="",
        title="Cache folder",
        description="Of each machine, for shards from an address and PNG decoded once. Empty: as FM_CACHE says there.",
    )
    features: str = Field(
        default="",
        title="Weights of feature networks",
        description="Folder of each machine that holds Inception's or DINOv2's file. Empty: as FM_FEATURES says there.",
    )

    def variables(self) -> dict[str, str]:
        """What the place sets in the environment of each process that works for it."""
        named = {"FM_CACHE": self.cache, "FM_FEATURES": self.features}
        return {name: value for name, value in named.items() if value}

    @property
    def fewest(self) -> int:
        """How many workers suffice."""
        return self.fewest_workers or self.workers

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.fewest_workers > self.workers:
            raise SettingsError(
                f"{self.fewest_workers} is more than workers, {self.workers}", "fewest_workers", "give fewer"
            )
        return self

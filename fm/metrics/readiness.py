"""Which feature networks this machine can load, and the published values that each must show with its real file."""

from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fm.errors import UserError
from fm.metrics.features import FEATURES
from fm.metrics.network import FeatureNetwork
from fm.metrics.weights import Missing

COMMAND = "fm evaluate --images FOLDER DATA --samples {1} --set evaluation.features={0}"
CLEAN_FID = "clean-fid's README, leaderboard CIFAR-10"
SQRTM_ENDS = (1, 18)  # from this scipy on, clean-fid's distance calls what is gone


@dataclass(frozen=True)
class Published:
    """A value that others measured with the same network and preprocessing: the row's column that must show it.

    `pictures` stand in FOLDER, `reference` are the held-out pictures of DATA; `apart` is the spread that is stated.
    """

    column: str
    value: float
    apart: float
    pictures: str
    reference: str
    source: str
    samples: int

    def command(self, features: str) -> str:
        """What computes it."""
        return COMMAND.format(features, self.samples)


def _stylegan(features: str, value: float, apart: float) -> Published:
    pictures = "10,000 samples of StyleGAN2 (mirror-flips) trained on CIFAR-10"
    return Published(f"fd_{features}", value, apart, pictures, "CIFAR-10, test", CLEAN_FID, 10_000)


TRAINING = "CIFAR-10's 50,000 training pictures"
PUBLISHED: dict[str, tuple[Published, ...]] = {
    "dinov2_vitl14": (
        Published(
            "fd_dinov2_vitl14",
            31.07,
            0.01,
            TRAINING,
            "CIFAR-10, test",
            "Stein et al. 2023, Table 11, test set",
            50_000,
        ),
    ),
    "inception_clean": (_stylegan("inception_clean", 12.96, 0.07),),
    "inception_legacy_tensorflow": (
        Published(
            "inception_score",
            11.24,
            0.12,
            TRAINING,
            "any",
            "Salimans et al. 2016, Table 3, real data; torch-fidelity's README: 11.237 and 0.095",
            50_000,
        ),
        _stylegan("inception_legacy_tensorflow", 11.07, 0.10),
    ),
}


def readiness() -> list[dict[str, Any]]:
    """Of each feature network: name, state, file, sha256, mend, preprocessing, dimensions and published values.

    The state is `ready`, `missing` or `refused` (another file, or one that cannot be read); `mend` says what to do.
    """
    return [_of(network) for network in FEATURES.values()]


def _of(network: FeatureNetwork) -> dict[str, Any]:
    state, found, mend = "ready", "", ""
    try:
        found = network.weights.check()
    except UserError as error:
        missing = isinstance(error, Missing)
        state, mend = ("missing", network.weights.mend()) if missing else ("refused", str(error))
    values = PUBLISHED.get(network.name, ())
    return {
        "features": network.name,
        "state": state,
        "file": network.weights.name,
        "sha256": found,
        "mend": mend,
        "preprocessing": network.preprocessing,
        "dimensions": network.dimensions,
        "published": [asdict(one) | {"command": one.command(network.name)} for one in values],
    }


def peers() -> str:
    """Whether clean-fid's own distance, which tests compare with, can run beside the scipy that is installed."""
    try:
        scipy, clean = version("scipy"), version("clean-fid")
    except PackageNotFoundError as error:
        return f"{error.name} is not installed: no comparison with clean-fid; distances here need neither"
    broken = tuple(int(part) for part in scipy.split(".")[:2]) >= SQRTM_ENDS
    state = "fails from scipy 1.18 on" if broken else "works"
    return f"clean-fid {clean} beside scipy {scipy}: its distance {state}; distances here need no matrix square root"

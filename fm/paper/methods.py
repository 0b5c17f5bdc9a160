"""The methods of Table 1, its published figures, and the data sets that they are of.

Source: Lipman et al. 2023.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fm.errors import member

SCALES = ("mini", "full")
OT, DIFFUSION = "FM w/ OT", "FM w/ Diffusion"


@dataclass(frozen=True)
class Method:
    """A row of Table 1, or one form of it; `key` names its folder.

    form: of a score network, what its output means (the paper does not say which it took).
    same_as: the method whose training this one would repeat bit by bit; it is not trained again.
    published: whether the paper has figures of it.
    drawn_by: the method whose trained network draws the images that this one is trained on.
    changes: what else is its own in the recipe.
    """

    name: str
    key: str
    objective: str
    path: str
    form: str = ""
    same_as: str = ""
    published: bool = True
    drawn_by: str = ""
    changes: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def title(self) -> str:
        return f"{self.name} ({self.form})" if self.form else self.name


METHODS = {
    method.key: method
    for method in (
        Method("DDPM", "ddpm", "noise_matching", "vp"),
        Method("Score Matching", "score-matching-raw", "score_matching_raw", "vp", "raw"),
        # Its loss and its velocity are NoiseMatching's, equations (43) and (45).
        Method("Score Matching", "score-matching-scaled", "score_matching_scaled", "vp", "scaled", same_as="ddpm"),
        Method("ScoreFlow", "scoreflow-raw", "score_flow_raw", "vp", "raw"),
        Method("ScoreFlow", "scoreflow-scaled", "score_flow_scaled", "vp", "scaled"),
        Method(DIFFUSION, "fm-vp", "flow_matching", "vp"),
        Method(OT, "fm-ot", "flow_matching", "ot"),
        Method("FM w/ VE", "fm-ve", "flow_matching", "ve", published=False),
    )
}


class Figures(NamedTuple):
    """What the paper's Table 1 has of a method: bits/dim (at its largest K), FID of 50,000 samples, NFE of dopri5 at
    1e-5; None where it has none."""

    nll: float | None
    fid: float | None
    nfe: int | None


TABLE_1 = {
    "cifar10": {
        "DDPM": Figures(3.12, 7.48, 274),
        "Score Matching": Figures(3.16, 19.94, 242),
        "ScoreFlow": Figures(3.09, 20.78, 428),
        DIFFUSION: Figures(3.10, 8.06, 183),
        OT: Figures(2.99, 6.35, 142),
    },
    "imagenet32": {
        "DDPM": Figures(3.54, 6.99, 262),
        "Score Matching": Figures(3.56, 5.68, 178),
        "ScoreFlow": Figures(3.55, 14.14, 195),
        DIFFUSION: Figures(3.54, 6.37, 193),
        OT: Figures(3.53, 5.02, 122),
    },
    "imagenet64": {
        "DDPM": Figures(3.32, 17.36, 264),
        "Score Matching": Figures(3.40, 19.74, 441),
        "ScoreFlow": Figures(3.36, 24.95, 601),
        DIFFUSION: Figures(3.33, 16.88, 187),
        OT: Figures(3.31, 14.45, 138),
    },
    "imagenet128": {OT: Figures(2.90, 20.9, None)},
}
"""Table 1 by data set and method. FID there is TensorFlow-GAN's (guided-diffusion's at 128 px), of the training set.
Two figures of ImageNet 32 differ from Table 4's at K = 15: Score Matching 3.57 and FM w/ Diffusion 3.56 there."""

K = {"cifar10": 50, "imagenet32": 15, "imagenet64": 10}  # dequantisation draws of Table 1's bits/dim
NLL_K1 = {
    "cifar10": {"DDPM": 3.24, "Score Matching": 3.28, "ScoreFlow": 3.21, DIFFUSION: 3.23, OT: 3.11},
    "imagenet32": {"DDPM": 3.62, "Score Matching": 3.65, "ScoreFlow": 3.63, DIFFUSION: 3.64, OT: 3.62},
    "imagenet64": {"DDPM": 3.36, "Score Matching": 3.43, "ScoreFlow": 3.39, DIFFUSION: 3.37, OT: 3.35},
}
"""Bits/dim at one draw (Table 4), where no rule for probes can favour anyone."""

# Images of the downsampled ImageNet of van den Oord et al. 2016, by the data sets that it can be taken for.
OLDER_VALIDATION = dict.fromkeys(("imagenet32", "imagenet64"), 49_999)


@dataclass(frozen=True)
class DataSet:
    """A data set of the comparison: its full-scale preset, where its pictures come from, and how many are published.

    hint: which pictures to name. source: what is taken where the user names none. scheme: of the sources that it is
    made from, where no counts are published. resized: how its pictures were brought to its size. features: that its
    FID is computed on at full scale. no_bits: why claims on bits/dim cannot rest on it.
    """

    key: str
    title: str
    preset: str
    hint: str
    source: str = ""
    scheme: str = ""
    classes: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    features: str = "inception_legacy_tensorflow"  # the nearest to the paper's that there is
    no_bits: str = ""
    resized: str = ""
    changes: dict[str, Any] = field(default_factory=dict)  # of the full-scale preset


_TARS = "ILSVRC2012_img_train.tar and _val.tar beside it"
IMAGENET: Any = {"classes": 1000, "counts": {"train": 1_281_167, "test": 50_000}}
DATASETS = {
    one.key: one
    for one in (
        DataSet(
            "cifar10",
            "CIFAR-10",
            "cifar10",
            "cifar-10-binary.tar.gz",
            classes=10,
            counts={"train": 50_000, "test": 10_000},
        ),
        DataSet("imagenet32", "ImageNet 32", "imagenet32", "the official npz batches", resized="box", **IMAGENET),
        DataSet("imagenet64", "ImageNet 64", "imagenet64", "the official npz batches", resized="box", **IMAGENET),
        DataSet("imagenet128", "ImageNet 128", "imagenet128", _TARS, resized="center-crop", **IMAGENET),
        DataSet(
            "emoji64",
            "emoji",
            "emoji64",
            "emoji:PATH, pictures named by code points",
            scheme="emoji",
            no_bits="42 % of the values are pure white, and bits/dim tell above all how sharply that one value is met",
        ),
        DataSet(
            "photos",
            "tiles of photographs",
            "demo",
            "photos:",
            source="photos:",
            scheme="photos",
            changes={
                "training.max_seconds": None,
                "evaluation.samples": 1000,
                "evaluation.batch": 64,
                "evaluation.nll_images": 256,
            },
        ),
    )
}


def known(dataset: str, scale: str, methods: Iterable[str]) -> DataSet:
    """The data set of that name, if scale and methods are known too.

    Raises: SettingsError that names the nearest.
    """
    member(scale, dict.fromkeys(SCALES), "scale", where="--scale")
    for key in methods:
        member(key, METHODS, "method", where="--methods")
    return member(dataset, DATASETS, "data set", where="--dataset")

"""What is trained for super-resolution on a data set: the same network on the same pairs with the same budget; only
path and objective differ. Also the paper's published figures of it.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from fm.errors import SettingsError, member
from fm.paper.methods import IMAGENET, OT, DataSet, Method
from fm.paper.plan import Member, Plan, given_beside
from fm.recipe import Recipe

BICUBIC, REGRESSION, SR3 = "Bicubic", "Regression", "SR3-style"
METHODS = {
    method.key: method
    for method in (
        Method(REGRESSION, "regression", "regression", "ot"),
        # Noise prediction on the VP path with the small picture on the channels: SR3's training (Saharia et al. 2021).
        # Its samples are those of the ODE, not of SR3's stochastic steps.
        Method(SR3, "sr3", "noise_matching", "vp"),
        Method(OT, "fm-ot", "flow_matching", "ot"),
    )
}


class Published(NamedTuple):
    """Of ImageNet 64 -> 256."""

    fid: float
    inception_score: float
    psnr: float | None
    ssim: float | None


PUBLISHED = {
    "Held-out images": Published(1.9, 240.8, None, None),
    REGRESSION: Published(15.2, 121.1, 27.9, 0.801),
    SR3: Published(5.2, 180.1, 26.4, 0.762),
    OT: Published(3.4, 200.8, 24.7, 0.747),
}
"""The paper's table of super-resolution (Lipman et al. 2023, Table 2); SR3 there samples with its own steps."""

ONE_STEP = {"solver": "euler", "nfe": 1}  # of regression, whose every sample is its one prediction
DATASETS = {
    one.key: one
    for one in (
        DataSet("photos", "tiles of photographs", "superres-mini", "photos:", source="photos:", scheme="photos"),
        DataSet("emoji64", "emoji", "superres-mini", "emoji:PATH, pictures named by code points", scheme="emoji"),
        DataSet(
            "imagenet",
            "ImageNet",
            "superres256",
            "ILSVRC2012_img_train.tar and _val.tar beside it",
            **IMAGENET,
        ),
    )
}


def planned(
    dataset: str, seeds: int = 1, methods: Sequence[str] = (), changes: Iterable[str] = (), preset: str = ""
) -> Plan:
    """The trainings of the comparison, all methods of the first seed before the second; `changes` are of every recipe.

    Raises: SettingsError that names the nearest data set or method, or the setting that is wrong.
    """
    of = member(dataset, DATASETS, "data set", where="--dataset")
    chosen = [member(key, METHODS, "method", where="--methods") for key in dict.fromkeys(methods or METHODS)]
    if seeds < 1:
        raise SettingsError(f"{seeds} is no number of seeds", "--seeds", "give 1 or more")
    made = tuple(changes)
    base = Recipe.load(preset or of.preset)
    members = [Member(one, seed, _recipe(base, of, one, seed, made)) for seed in range(seeds) for one in chosen]
    scale = "mini" if of.preset.endswith("-mini") else "full"
    return Plan(of, scale, seeds, tuple(chosen), tuple(members), made)


def _recipe(base: Recipe, of: DataSet, method: Method, seed: int, changes: Sequence[str]) -> Recipe:
    given = given_beside(changes, ("super_resolution", "evaluation.reference_split"))
    own: dict[str, Any] = {"objective": method.objective, "path": method.path, "training.seed": seed}
    # A sample's own image is among the held-out ones: what comes near it would count as near them.
    own["evaluation.reference_split"] = "training"
    if method.name == REGRESSION:
        own |= {"evaluation.grid": [ONE_STEP], "evaluation.along": None}
    recipe = Recipe.changed(base.model_dump(mode="json"), {"name": f"superres-{of.key}"} | given | own, of.key)
    if not recipe.super_resolution:
        raise SettingsError("is of no super-resolution", base.name, "set super_resolution=true in it")
    return recipe

"""What is trained for a data set at a scale: the same network on the same images in the same order with the same noise
for as long, whatever the method; only path and objective differ.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fm.data import Manifest
from fm.errors import DataError, SettingsError
from fm.paper.methods import METHODS, OLDER_VALIDATION, DataSet, Method, known
from fm.parsing import pair
from fm.recipe import Recipe

# Figure 7: fixed steps by NFE, and dopri5 at 1e-5, at which Table 1 was measured and likelihoods are computed.
SWEEP, BUDGETS = ("euler", "midpoint", "rk4"), (4, 8, 16, 32, 64, 100)
SWEEP_SAMPLES = 10_000
ERROR_IMAGES = 256  # noises of Figure 7, left
GAP_IMAGES = 2_000
ALONG = 8  # checkpoints that are kept along a training


@dataclass(frozen=True)
class Member:
    """One training of the comparison with its recipe; `folder` lies in the comparison's own. `guided` are points that
    are measured beside the recipe's grid, since their guide is known only after the training."""

    method: Method
    seed: int
    recipe: Recipe
    guided: tuple[dict[str, Any], ...] = ()

    @property
    def folder(self) -> str:
        return f"{self.method.key}-seed{self.seed}"


def members_in(out: Path, keys: Collection[str] = METHODS.keys()) -> list[Path]:
    """The RUNs in a folder that are named as a comparison's members are, of methods with these keys."""
    parts = [(path, *path.name.rpartition("-seed")) for path in sorted(out.iterdir())]
    named = [path for path, key, _, seed in parts if key in keys and seed.isdecimal()]
    return [path for path in named if (path / "recipe.json").is_file() and not path.is_symlink()]


@dataclass(frozen=True)
class Plan:
    """All that is trained for a data set at a scale, seed by seed; `methods` holds repetitions of others too."""

    dataset: DataSet
    scale: str
    seeds: int
    methods: tuple[Method, ...]
    members: tuple[Member, ...]
    changes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.dataset.key}-{self.scale}"

    def some(self, every: Collection[str]) -> list[str]:
        """The keys of its methods as they are asked for; none where they are all that there are."""
        return [method.key for method in self.methods] if len(self.methods) < len(every) else []

    @property
    def recipe(self) -> Recipe:
        """What all members share, with the path and objective of the first."""
        return self.members[0].recipe


def planned(
    dataset: str, scale: str = "mini", seeds: int = 2, methods: Sequence[str] = (), changes: Iterable[str] = ()
) -> Plan:
    """The trainings of the comparison, all methods of the first seed before the second; `changes` are of every recipe.

    Raises: SettingsError that names the nearest data set, scale or method, or the setting that is wrong.
    """
    of = known(dataset, scale, methods)
    if seeds < 1:
        raise SettingsError(f"{seeds} is no number of seeds", "--seeds", "give 1 or more")
    chosen = tuple(METHODS[key] for key in dict.fromkeys(methods or METHODS))
    trained = {method.same_as or method.key: METHODS[method.same_as or method.key] for method in chosen}
    members = [
        Member(method, seed, _recipe(of, scale, method, seed, changes))
        for seed in range(seeds)
        for method in trained.values()
    ]
    return Plan(of, scale, seeds, chosen, tuple(members), tuple(changes))


def _recipe(of: DataSet, scale: str, method: Method, seed: int, changes: Iterable[str]) -> Recipe:
    """The preset with the method's path and objective; at full scale with the paper's evaluation too."""
    base = Recipe.load("mini") if scale == "mini" else Recipe.load(of.preset, of.changes)
    own: dict[str, Any] = {} if scale == "mini" else _as_published(base, of)
    given = given_beside(changes)
    decided = {"objective": method.objective, "path": method.path, "training.seed": seed}
    values = base.model_dump(mode="json")
    return Recipe.changed(values, {"name": f"{of.key}-{scale}"} | own | given | decided, of.key)


DECIDED = ("name", "path", "objective", "training.seed")


def given_beside(changes: Iterable[str], decided: Iterable[str] = ()) -> dict[str, Any]:
    """The changes as keys and values, none of which is a setting (or one inside it) that the comparison decides: those
    of `DECIDED` in every one.

    Raises: SettingsError that names the key.
    """
    given = dict(pair(change) for change in changes)
    for key in given:
        if any(f"{key}.".startswith(f"{own}.") for own in (*DECIDED, *decided)):
            raise SettingsError("is what the comparison decides", f"--set {key}", "choose by --methods and --seeds")
    return given


def _as_published(base: Recipe, of: DataSet) -> dict[str, Any]:
    """What the paper measured: Table 1 with FID against training images, NLL by both probe rules, Figures 5 and 7."""
    own = base.evaluation
    samples = min(SWEEP_SAMPLES, own.samples)
    swept = [{"solver": s, "nfe": nfe, "samples": samples} for s in SWEEP for nfe in BUDGETS]
    changes: dict[str, Any] = {
        "evaluation.grid": [*swept, {"solver": "dopri5", "tolerance": 1e-5, "nll_images": own.nll_images}],
        "evaluation.along": {"solver": "dopri5", "tolerance": 1e-5, "samples": samples},
        "evaluation.nll_images": 0,
        "evaluation.nll_training_images": min(GAP_IMAGES, own.nll_images),
        "evaluation.error_images": ERROR_IMAGES,
    }
    if of.counts:
        changes |= {"evaluation.features": of.features, "evaluation.reference_split": "training"}
        changes |= {"evaluation.reference_images": of.counts["train"], "evaluation.nll_probe": "both"}
    if base.training.keep_every_images is None:
        changes["training.keep_every_images"] = -(-base.training.total_images // ALONG)
    return changes


def differing(plan: Plan, manifest: Manifest) -> str:
    """In what a prepared data set is not the published one; nothing if it is, or none is published."""
    dataset = plan.dataset
    if dataset.scheme and not manifest.source.startswith(f"{dataset.scheme}:"):
        return f"was prepared from {manifest.source}, not from {dataset.scheme}:"
    found = {name: split.images for name, split in manifest.splits.items()}
    older = OLDER_VALIDATION.get(dataset.key)
    if older and found.get("test") == older:
        return (
            f"is the older downsampled ImageNet of {older:,} validation images (van den Oord et al. 2016), "
            "whose bits/dim are about 0.2 higher than those of the official one"
        )
    if dataset.classes and len(manifest.classes) != dataset.classes:
        return f"has {len(manifest.classes)} classes, where {dataset.title} has {dataset.classes}"
    if plan.scale == "full" and dataset.resized and manifest.settings.method != dataset.resized:
        return f"was resized by {manifest.settings.method}, where {dataset.title} is by {dataset.resized}"
    if not dataset.counts or found == dataset.counts:
        return ""
    words = ", ".join(f"{found.get(name, 0):,} {name}" for name in dataset.counts)
    due = ", ".join(f"{count:,} {name}" for name, count in dataset.counts.items())
    return f"holds {words} images, where {dataset.title} has {due}"


def check_data(plan: Plan, manifest: Manifest, where: str, allowed: bool) -> str:
    """What is said beside the table of data that are not the published ones.

    Raises: DataError if they are not and that is not allowed, or if the pictures have another size than the recipe's.
    """
    if (size := manifest.shape[-1]) != plan.recipe.data.size:
        raise DataError(f"its pictures are of {size} px, {plan.name} is of {plan.recipe.data.size}", where, "prepare")
    due = plan.recipe.low_size
    if due and manifest.settings.low_size != due:
        has = f"are of {manifest.settings.low_size} px" if manifest.settings.low_size else "are missing"
        raise DataError(
            f"its small pictures {has}, {plan.name}'s are of {due}", where, f"prepare with --low-size {due}"
        )
    found = differing(plan, manifest)
    if found and not allowed:
        raise DataError(found, where, "take the published data, or --allow-different-data, which marks the table")
    return found

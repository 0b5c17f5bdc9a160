"""What is trained for a data set at a scale: the same network on the same images in the same order with the same noise
for as long, whatever the method; only path and objective differ.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fm.data import Manifest
from fm.errors import DataError, SettingsError
from fm.paper.methods import METHODS, OLDER_VALIDATION, DataSet, Method, known
from fm.recipe import Recipe, pair

# Figure 7: fixed steps by NFE, and dopri5 at 1e-5, at which Table 1 was measured and likelihoods are computed.
SWEEP = {"euler": (4, 8, 16, 32, 64, 100), "midpoint": (4, 8, 16, 32, 64, 100), "rk4": (4, 8, 16, 32, 64, 100)}
SWEEP_SAMPLES = 10_000
ALONG = 8  # checkpoints that are kept along a training


@dataclass(frozen=True)
class Member:
    """One training of the comparison with its recipe; `folder` lies in the comparison's own."""

    method: Method
    seed: int
    recipe: Recipe

    @property
    def folder(self) -> str:
        return f"{self.method.key}-seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """All that is trained for a data set at a scale, seed by seed; `methods` holds repetitions of others too."""

    dataset: DataSet
    scale: str
    seeds: int
    methods: tuple[Method, ...]
    members: tuple[Member, ...]

    @property
    def name(self) -> str:
        return f"{self.dataset.key}-{self.scale}"

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
    chosen = tuple(METHODS[key] for key in methods or METHODS)
    trained = {method.same_as or method.key: METHODS[method.same_as or method.key] for method in chosen}
    members = [
        Member(method, seed, _recipe(of, scale, method, seed, changes))
        for seed in range(seeds)
        for method in trained.values()
    ]
    return Plan(of, scale, seeds, chosen, tuple(members))


def _recipe(of: DataSet, scale: str, method: Method, seed: int, changes: Iterable[str]) -> Recipe:
    """The preset with the method's path and objective, and at full scale the solver grid of the paper's figures."""
    own: dict[str, Any] = {"objective": method.objective, "path": method.path, "training.seed": seed}
    if scale == "mini":
        base = Recipe.load("mini")
    else:
        base = Recipe.load(of.preset, of.changes)
        own |= {"evaluation.grid": _grid(base), "evaluation.nll_images": 0}
        if base.training.keep_every_images is None:
            own["training.keep_every_images"] = -(-base.training.total_images // ALONG)
        own |= {"evaluation.along": {"solver": "midpoint", "nfe": 16, "samples": min(5000, base.evaluation.samples)}}
    name = {"name": f"{of.key}-{scale}"}
    return Recipe.changed(base.model_dump(mode="json"), name | own | dict(pair(change) for change in changes), of.key)


def _grid(base: Recipe) -> list[dict[str, Any]]:
    own = base.evaluation
    samples = min(SWEEP_SAMPLES, own.samples)
    swept = [{"solver": s, "nfe": nfe, "samples": samples} for s, budgets in SWEEP.items() for nfe in budgets]
    return [*swept, {"solver": "dopri5", "tolerance": 1e-5, "nll_images": own.nll_images}]


def differing(dataset: DataSet, manifest: Manifest) -> str:
    """In what a prepared data set is not the published one; nothing if it is, or none is published."""
    found = {name: split.images for name, split in manifest.splits.items()}
    if not dataset.counts or found == dataset.counts:
        return ""
    if found.get("test") == OLDER_VALIDATION:
        return (
            f"is the older downsampled ImageNet of {OLDER_VALIDATION:,} validation images (van den Oord et al. 2016), "
            "whose bits/dim are about 0.2 higher than those of the official one"
        )
    words = ", ".join(f"{found.get(name, 0):,} {name}" for name in dataset.counts)
    due = ", ".join(f"{count:,} {name}" for name, count in dataset.counts.items())
    return f"holds {words} images, where {dataset.title} has {due}"


def check_data(plan: Plan, manifest: Manifest, where: str, allowed: bool) -> str:
    """What is said beside the table of data that are not the published ones.

    Raises: DataError if they are not and that is not allowed, or if the pictures have another size than the recipe's.
    """
    if (size := manifest.shape[-1]) != plan.recipe.data.size:
        raise DataError(f"its pictures are of {size} px, {plan.name} is of {plan.recipe.data.size}", where, "prepare")
    found = differing(plan.dataset, manifest)
    if found and not allowed:
        raise DataError(found, where, "take the published data, or --allow-different-data, which marks the table")
    return found

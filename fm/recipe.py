"""All settings together, behind one door: `Recipe.load(preset | file | RUN, changes)`; behind it all is explicit.

A Recipe is what may change a number; where it runs is a Place (tasks/cluster.py). Settings live beside the code they
set; this module joins them, and rebuilds a Flow from a RUN. A recipe that names a plug-in (`fm/plugins.py`) runs its
code.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field
from torch import nn

from fm import plugins, presets
from fm.cells import Evaluation, cells, check_guidance, check_guided_budgets, check_jumps
from fm.data import Preparation
from fm.data.plane import Points
from fm.enlarging import check_pairs
from fm.errors import NumericalError, SettingsError, UserError, nearest
from fm.facts import facts_of, is_trained
from fm.files import read_json, write_json
from fm.flow import Flow
from fm.lineage import differences, digest
from fm.models import AnyModel
from fm.objectives import OBJECTIVES, Objective, objective
from fm.optimised import kept_grids
from fm.parallel import World
from fm.parsing import fields, pair, parse
from fm.paths import AnyPath
from fm.peers import Peer
from fm.runs import held, pulled
from fm.settings import Settings, listed
from fm.training import Training
from fm.training import check as check_training

# Settings of a training that older ones did not have.
LATER = {"initial_weights", "coupling_noises", "drawn_by", "ema_lengths"}
KEPT_AND_TOLD = {"keep", "keep_every_images", "report_images", "save_images"}  # of a training: they change no number


class Recipe(Settings):
    """Everything that may change a number: data, network, path, objective, training, evaluation."""

    name: str = Field(title="Name", description="What this recipe is called; changes no number.")
    data: Preparation = Field(title="Data", description="How pictures become shards.")
    model: AnyModel = Field(title="Network", description="The network that learns the velocity.")
    path: AnyPath = Field(title="Path", description="The probability path from noise (t = 0) to data (t = 1).")
    objective: str = Field(
        title="Objective",
        description=f"What the network learns to predict: {', '.join(sorted(OBJECTIVES))}.",
        json_schema_extra={"enum": [*sorted(OBJECTIVES)]},
    )
    class_conditional: bool = Field(
        title="Class-conditional", description="Train with the class labels, if there are any."
    )
    super_resolution: bool = Field(
        False,
        title="Super-resolution",
        description="The network is told the small picture (data.low_size), and learns what may belong to it.",
    )
    training: Training = Field(title="Training", description="How the network is trained.")
    evaluation: Evaluation = Field(title="Evaluation", description="What is measured on the trained network.")
    peer: Peer | None = Field(
        default=None,
        title="Trained elsewhere",
        description="By whom and on what, of `fm import`; empty = trained here.",
    )

    @classmethod
    def load(cls, where: str | Path, changes: Iterable[str] | Mapping[str, Any] = ()) -> Self:
        """A recipe from a preset's name, a TOML file, or a RUN, with changes such as `training.batch_images=128`.

        A string that is a preset's name means the preset, even where a folder has that name; a Path never does.

        Raises: SettingsError that names the key, the value, and the range or the nearest name.
        """
        values, source = _read(where)
        if cls is Recipe and _of_points(values):
            raise SettingsError("is of points, not of pictures", source, "`fm demo2d` measures and draws it")
        return cls.changed(values, changes, source)

    @classmethod
    def changed(cls, values: dict[str, Any], changes: Iterable[str] | Mapping[str, Any], source: str = "") -> Self:
        """A recipe from plain values, into which the changes are written; errors as `load` raises them."""
        pairs = dict(changes.items() if isinstance(changes, Mapping) else [pair(c) for c in changes])
        for key, value in pairs.items():
            _set(values, key, value)
        try:
            return cls.parse(values, source)
        except SettingsError as error:
            place = error.where.removeprefix(f"{source}: ")
            if any(f"{place}.".startswith(f"{key}.") or f"{key}.".startswith(f"{place}.") for key in pairs):
                raise SettingsError(error.what, f"--set {place}", error.mend) from None
            raise

    @classmethod
    def parse(cls, values: Any, source: str = "") -> Self:
        """A recipe from plain values.

        Raises: SettingsError, one sentence about the first value that is wrong.
        """
        return parse(cls, values, source)

    def digest(self) -> str:
        """Identifies the experiment: equal digests give equal numbers, wherever they run."""
        return digest(_told(self.model_dump(mode="json", exclude={"name"})))

    def training_digest(self) -> str:
        """Identifies what is trained, whatever is measured afterwards: a checkpoint belongs to this."""
        return digest(self.training_values())

    def training_values(self) -> dict[str, Any]:
        values = _told(self.model_dump(mode="json", exclude={"name", "data", "evaluation"}))
        return values | {"training": {k: v for k, v in values["training"].items() if k not in KEPT_AND_TOLD}}

    @property
    def method(self) -> str:
        """Objective and path in a word: `fm-ot`, `ddpm-vp`, `score-matching-raw-vp`."""
        short = {"flow_matching": "fm", "noise_matching": "ddpm"}
        return f"{short.get(self.objective, self.objective.replace('_', '-'))}-{self.path.kind}"

    @property
    def low_size(self) -> int | None:
        """The side of the small pictures that the network is told; None of one that is told none."""
        return self.data.low_size if self.super_resolution else None

    @property
    def plugins(self) -> str:
        """The import paths of what is trained with, but does not stand in this project: `a.b:C, d:E`."""
        names = (self.path.kind, self.objective, self.training.times.kind, self.training.coupling)
        return ", ".join(name for name in names if plugins.named(name))

    def build(self, shape: tuple[int, ...], classes: int | None) -> tuple[nn.Module, Objective]:
        """The freshly initialised network (from the training seed) and its objective, for samples of `shape`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            labels, told = classes if self.class_conditional else None, shape[0] if self.super_resolution else 0
            target = objective(self.objective)(self.path)
            model: nn.Module = self.model.build(shape, labels, told, target.jumps)
        if self.peer:
            model = self.peer.adapt(model, self.path, self.objective)
        return model, target

    def check(self, workers: int = 1, fewest_workers: int = 0) -> None:
        """The rules across fields and for that many workers, or down to the fewest; each flow's first line.

        All is built, without memory.

        Raises: SettingsError, one sentence.
        """
        target = objective(self.objective)(self.path)
        check_pairs(self.super_resolution, self.data.low_size, self.objective, self.training.coupling)
        for size in range(fewest_workers or workers, workers + 1):
            check_training(self.training, World(size=size), target.jumps, self.class_conditional)
        cells(self.evaluation)
        check_guidance(self.evaluation, self.class_conditional, self.training.label_drop)
        check_jumps(self.evaluation, target.jumps)
        check_guided_budgets(self.evaluation, target)
        if target.jumps and getattr(self.model, "dropout", False):
            mend = "set it to 0"
            raise SettingsError("a jump's target would be of another network than its answer", "model.dropout", mend)
        with torch.device("meta"):
            self.build(self.data.shape, classes=2)
        start = torch.zeros(1, 2)
        try:
            target.to_velocity(start, start, torch.zeros(1))
        except NumericalError as error:
            what = f"{self.objective} has no velocity to sample with ({error.what})"
            raise SettingsError(what, "objective", "take path=vp or path=ve, or flow_matching") from error


def _told(values: dict[str, Any]) -> dict[str, Any]:
    """Without what says nothing: fresh weights have the digests that they had when there were no others."""
    training = {k: v for k, v in values["training"].items() if k not in LATER or v is not None}
    told = {k: v for k, v in values.items() if k != "super_resolution" or v}
    return told | {"training": training}


class PointRecipe(Recipe):
    """The recipe of points in the plane, as `fm demo2d` trains on: no pictures to prepare, nor to be measured on."""

    data: Points = Field(title="Data", description="Which points.")  # type: ignore[assignment]
    evaluation: None = None  # type: ignore[assignment]


def recorded(run: str | Path) -> Recipe:
    """The recipe of a RUN, be it of pictures or of points."""
    return (PointRecipe if _of_points(_read(run)[0]) else Recipe).load(run)


def _of_points(values: dict[str, Any]) -> bool:
    return "distribution" in values.get("data", {})


def load(run: str | Path, device: str = "cpu", weights: str = "ema") -> Flow:
    """The trained flow of a RUN, a folder or an address: `fm.load("runs/demo").sample(16, seed=0, nfe=32)`.

    Raises: UserError if RUN holds no recipe or no checkpoint, or the address cannot be read.
    """
    from fm.checkpoints import load_weights

    run = pulled(run, weights)
    recipe, data = recorded(run), facts_of(run)
    model, objective = recipe.build(tuple(data["shape"]), len(data["classes"]) or None)
    state, info = load_weights(run, weights)
    model.load_state_dict(state)
    flow = _flow(recipe, model.to(device), objective, data, info)
    return replace(flow, grids=kept_grids(run, info["weights"]))


def check_guide(run: str | Path, guide: str | Path) -> None:
    """Raises: SettingsError if the network in RUN cannot be led away from that in `guide`, which is of another kind."""
    own, other = (_kind(recorded(folder), facts_of(folder)) for folder in (pulled(run), pulled(guide)))
    if apart := [f"{name} {other[name]} (here {own[name]})" for name in own if own[name] != other[name]]:
        raise SettingsError(
            f"is a network of another kind: {'; '.join(apart)}", str(guide), "name a weaker RUN of the same kind"
        )


def _kind(recipe: Recipe, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "objective": recipe.objective,
        "path": str(recipe.path),
        "shape": "x".join(map(str, data["shape"])),
        "classes": ", ".join(data["classes"]) if recipe.class_conditional else "none",
        "small picture": recipe.low_size,
    }


def untrained(run: str | Path, device: str = "cpu") -> Flow:
    """The RUN's network as it was before its first step: the baseline that every distance is shown against."""
    run = pulled(run)
    recipe, data = Recipe.load(run), facts_of(run)
    model, objective = recipe.build(tuple(data["shape"]), len(data["classes"]) or None)
    info = {"weights": untrained_weights(recipe), "images_seen": 0, "method": "untrained"}
    return _flow(recipe, model.to(device), objective, data, info)


def untrained_weights(recipe: Recipe) -> str:
    """What stands for the weights' hash of a network before its first step: they follow from the recipe."""
    return "untrained-" + recipe.training_digest()


def _flow(recipe: Recipe, model: nn.Module, objective: Objective, data: dict[str, Any], info: dict[str, Any]) -> Flow:
    lineage = {"data": data["digest"], "recipe": recipe.digest(), **info}
    if recipe.plugins:
        lineage["plugins"] = recipe.plugins
    if recipe.peer:
        lineage["peer"] = recipe.peer.name
        if recipe.peer.method:
            lineage.setdefault("method", recipe.peer.method)
    classes = tuple(data["classes"]) if recipe.class_conditional else None
    return Flow(model, objective, tuple(data["shape"]), classes, lineage, recipe.low_size)


@contextmanager
def opened(run: str | Path, recipe: Recipe, note: bool = True) -> Iterator[Path]:
    """RUN as the folder of this recipe's training, for one process at a time -> its absolute path, of a RUN at an
    address that of its copy here.

    What is measured may change later, what is trained may not. Without `note` RUN keeps the recipe that it has.

    Raises: UserError if another process is at work there; SettingsError that names the keys in which RUN's recipe
    differs.
    """
    with held(run) as folder:
        there = check_recipe(folder, recipe, str(run))
        if there is None or (note and there != recipe):
            write_json(folder / "recipe.json", recipe.model_dump(mode="json"))
        yield folder


def check_recipe(folder: Path, recipe: Recipe, run: str) -> Recipe | None:
    """The recipe that RUN, in this folder, has, if any; writes nothing.

    Raises: SettingsError that names the keys in which it differs, if something is trained by it.
    """
    there = recorded(folder) if (folder / "recipe.json").exists() else None
    differing = differences(there.training_values(), recipe.training_values()) if there else []
    if differing and is_trained(folder):
        what = f"holds a training by another recipe ({', '.join(differing)})"
        raise SettingsError(what, run, "choose another RUN folder")
    return there


def _read(where: str | Path) -> tuple[dict[str, Any], str]:
    path = presets.file(where) if where in presets.names() else pulled(where)
    if path.is_dir():
        return _table(path / "recipe.json"), str(path / "recipe.json")
    if path.suffix != ".toml":
        if path.suffix or "/" in str(where):
            raise UserError("no such RUN or recipe file", where=str(where))
        path = presets.file(str(where))
    try:
        return tomllib.loads(path.read_text()), path.name
    except FileNotFoundError:
        raise UserError("no such recipe file", where=str(where)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"is not TOML ({error})", where=str(where)) from None


def _table(file: Path) -> dict[str, Any]:
    values = read_json(file)
    if not isinstance(values, dict):
        raise SettingsError("is not a recipe", str(file), "restore it from a copy")
    return values


def _set(values: dict[str, Any], key: str, value: Any, kind: Any = Recipe, part: str = "") -> None:
    """Changes one nested value; another member of a family (`path=vp`, `path.kind=vp`) takes its defaults."""
    name, _, rest = key.partition(".")
    known = fields(kind, values.get("kind"))
    unknown = name not in known and not plugins.named(values.get("kind"))  # which knows its options when it is built
    if rest and not unknown and values.get(name) is None and fields(known[name]):
        values[name] = {}  # a part that was left out is begun
    if rest and not unknown and not isinstance(values.get(name), dict):
        raise SettingsError(f"{part}{name} is one value, without {rest!r}", "--set", f"give {part}{name}=VALUE")
    if unknown:
        whole = [s.key for s in listed(Recipe, values) if s.key.split(".")[-1] == name] if kind is Recipe else []
        mend = f"did you mean {' or '.join(whole)}?" if whole else nearest(part + name, [part + one for one in known])
        raise SettingsError(f"no such setting {part + name!r}", "--set", mend)
    if rest:
        return _set(values[name], rest, value, known.get(name), f"{part}{name}.")
    if name == "kind" and values.get("kind") != value:
        values.clear()
    if isinstance(values.get(name), dict) and isinstance(value, str):
        value = {"kind": value}
    values[name] = value

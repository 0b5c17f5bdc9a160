"""All settings together, behind one door: `Recipe.load(preset | file | RUN, changes)`; behind it all is explicit.

A Recipe is what may change a number; where it runs is a Place (tasks/cluster.py). Settings live beside the code they
set; this module joins them, translates pydantic's errors into one sentence, and rebuilds a Flow from a RUN.
"""

import json
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, ValidationError
from torch import nn

from fm import presets
from fm.data import Manifest, Preparation
from fm.errors import SettingsError, UserError, member, nearest
from fm.evaluation import Evaluation, cells
from fm.files import read_json, write_json
from fm.flow import Flow
from fm.lineage import digest
from fm.models import AnyModel
from fm.objectives import OBJECTIVES, Objective
from fm.parallel import World
from fm.paths import AnyPath
from fm.settings import Settings
from fm.training import Training
from fm.training import check as check_training


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
    training: Training = Field(title="Training", description="How the network is trained.")
    evaluation: Evaluation = Field(title="Evaluation", description="What is measured on the trained network.")

    @classmethod
    def load(cls, where: str | Path, changes: Iterable[str] | Mapping[str, Any] = ()) -> Self:
        """A recipe from a preset's name, a TOML file, or a RUN, with changes such as `training.batch_images=128`.

        Raises: SettingsError that names the key, the value, and the range or the nearest name.
        """
        values, source = _read(str(where))
        pairs = changes.items() if isinstance(changes, Mapping) else [_pair(c) for c in changes]
        for key, value in pairs:
            _set(values, key, value)
        return cls.parse(values, source)

    @classmethod
    def parse(cls, values: Any, source: str = "") -> Self:
        """A recipe from plain values.

        Raises: SettingsError, one sentence about the first value that is wrong.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _translated(cls, error, source) from None

    def digest(self) -> str:
        """Identifies the experiment: equal digests give equal numbers, wherever they run."""
        return digest(self.model_dump(mode="json", exclude={"name"}))

    def training_digest(self) -> str:
        """Identifies what is trained, whatever is measured afterwards: a checkpoint belongs to this."""
        return digest(self.training_values())

    def training_values(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"name", "data", "evaluation"})

    def build(self, shape: tuple[int, ...], classes: int | None) -> tuple[nn.Module, Objective]:
        """The freshly initialised network (from the training seed) and its objective, for samples of `shape`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            model = self.model.build(shape, classes if self.class_conditional else None)
        return model, OBJECTIVES[self.objective](self.path)

    def check(self, workers: int = 1) -> None:
        """The rules across fields and for that many workers, by building all without memory; each flow's first line.

        Raises: SettingsError, one sentence.
        """
        member(self.objective, OBJECTIVES, "objective", "objective")
        check_training(self.training, World(size=workers))
        cells(self.evaluation)
        with torch.device("meta"):
            self.build(self.data.shape, classes=2)


def load(run: str | Path, device: str = "cpu", weights: str = "ema") -> Flow:
    """The trained flow of a RUN: `fm.load("runs/demo").sample(16, seed=0, nfe=32)`.

    Raises: UserError if RUN holds no recipe or no checkpoint.
    """
    from fm.checkpoints import load_weights

    run = Path(run)
    recipe, data = Recipe.load(run), read_json(run / "data.json")
    model, objective = recipe.build(tuple(data["shape"]), len(data["classes"]) or None)
    state, info = load_weights(run, weights)
    model.load_state_dict(state)
    return _flow(recipe, model.to(device), objective, data, info)


def untrained(run: str | Path) -> Flow:
    """The RUN's network as it was before its first step: the baseline that every distance is shown against."""
    recipe, data = Recipe.load(run), read_json(Path(run) / "data.json")
    model, objective = recipe.build(tuple(data["shape"]), len(data["classes"]) or None)
    info = {"weights": untrained_weights(recipe), "images_seen": 0, "method": "untrained"}
    return _flow(recipe, model, objective, data, info)


def untrained_weights(recipe: Recipe) -> str:
    """What stands for the weights' hash of a network before its first step: they follow from the recipe."""
    return "untrained-" + recipe.training_digest()


def _flow(recipe: Recipe, model: nn.Module, objective: Objective, data: dict[str, Any], info: dict[str, Any]) -> Flow:
    lineage = {"data": data["digest"], "recipe": recipe.digest(), **info}
    classes = tuple(data["classes"]) if recipe.class_conditional else None
    return Flow(model, objective, shape=tuple(data["shape"]), classes=classes, lineage=lineage)


def open_run(run: str | Path, recipe: Recipe) -> Path:
    """Makes RUN the folder of this recipe's training, and returns its absolute path.

    What is measured may change later, what is trained may not.

    Raises: SettingsError that names the keys in which RUN's recipe differs.
    """
    folder = Path(run).resolve()
    file = folder / "recipe.json"
    there = Recipe.load(folder) if file.exists() else None
    differing = differences(there.training_values(), recipe.training_values()) if there else []
    if differing and _is_trained(folder):
        raise SettingsError(
            f"holds a training by another recipe ({', '.join(differing)})", str(run), "choose another RUN folder"
        )
    if there != recipe:
        write_json(file, recipe.model_dump(mode="json"))
    return folder


def _is_trained(run: Path) -> bool:
    """Whether RUN has a checkpoint: a start that failed before its first one binds RUN to nothing."""
    return any((run / "checkpoints").glob("[0-9]*"))


def on_data(run: Path, data: Path, manifest: Manifest) -> None:
    """Notes in RUN/data.json what it is trained on, and where that lies now.

    Raises: SettingsError if RUN was trained on other data.
    """
    file = run / "data.json"
    if _is_trained(run) and file.exists() and (there := read_json(file)["digest"]) != manifest.digest:
        raise SettingsError(
            f"was trained on data {there}, not {manifest.digest}", str(run), "choose another RUN folder"
        )
    facts: dict[str, Any] = {"data": str(data.resolve()), "digest": manifest.digest, "source": manifest.source}
    images = {name: split.images for name, split in manifest.splits.items()}
    facts |= {"shape": list(manifest.shape), "classes": list(manifest.classes), "images": images}
    if not file.exists() or read_json(file) != facts:
        write_json(file, facts)


def differences(there: Any, here: Any, key: str = "") -> list[str]:
    """`training.batch_images 64, now 128` for each leaf in which two nested dicts differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = [*there, *(k for k in here if k not in there)]
        return [d for k in keys for d in differences(there.get(k), here.get(k), f"{key}.{k}".lstrip("."))]
    return [] if there == here else [f"{key} {there}, now {here}"]


def _read(where: str) -> tuple[dict[str, Any], str]:
    path = Path(where)
    if path.is_dir():
        return read_json(path / "recipe.json"), str(path / "recipe.json")
    if path.suffix != ".toml":
        if path.suffix or "/" in where:
            raise UserError("no such RUN or recipe file", where=where)
        path = presets.file(where)
    try:
        return tomllib.loads(path.read_text()), path.name
    except FileNotFoundError:
        raise UserError("no such recipe file", where=where) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"is not TOML ({error})", where=where) from None


def _pair(change: str) -> tuple[str, Any]:
    """`key=value`, the value as TOML says it; a bare word is a string, and none is no value."""
    key, sign, value = change.partition("=")
    if not sign or not key.strip():
        raise SettingsError(
            f"{change!r} is not of the form key=value", "--set", "for example training.batch_images=128"
        )
    if value.strip() == "none":
        return key.strip(), None
    try:
        return key.strip(), tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def _set(values: dict[str, Any], key: str, value: Any, kind: Any = Recipe) -> None:
    """Changes one nested value; another member of a family (`path=vp`, `path.kind=vp`) takes its defaults."""
    name, _, rest = key.partition(".")
    known = _fields(kind, values.get("kind"))
    if name not in known or (rest and not isinstance(values.get(name), dict)):
        raise SettingsError(f"no such setting {name!r}", "--set", nearest(name, known))
    if rest:
        return _set(values[name], rest, value, known[name])
    if name == "kind" and values.get("kind") != value:
        values.clear()
    if isinstance(values.get(name), dict) and isinstance(value, str):
        value = {"kind": value}
    values[name] = value


def _translated(cls: type, error: ValidationError, source: str) -> SettingsError:
    """pydantic's first complaint as one sentence: the key's path, the value, its range or the nearest name."""
    first = error.errors(include_url=False)[0]
    keys, known = _followed(cls, first["loc"])
    where = ": ".join(filter(None, [source, ".".join(keys)]))
    if first["type"] == "extra_forbidden":
        return SettingsError("no such setting", where, nearest(keys[-1], known))
    if first["type"] == "missing":
        return SettingsError("is missing", where, "a recipe states every setting")
    if first["type"] == "union_tag_invalid":
        tags = [_kind_of(member) or "" for member in _members(known[keys[-1]])]
        return SettingsError(f"unknown {keys[-1]} {first['ctx']['tag']!r}", where, nearest(first["ctx"]["tag"], tags))
    message = first["msg"][:1].lower() + first["msg"][1:]
    return SettingsError(f"{json.dumps(first['input'], default=str)} given, but {message}", where)


def _followed(kind: Any, loc: tuple[Any, ...]) -> tuple[list[str], dict[str, Any]]:
    """The keys of a place in nested settings as a user writes them, without pydantic's names of union members; and the
    fields that are known beside the last of them."""
    keys: list[str] = []
    known: dict[str, Any] = {}
    for part in loc:
        if part in [_kind_of(member) for member in _members(kind)] and len(_members(kind)) > 1:
            kind = next(member for member in _members(kind) if _kind_of(member) == part)
            continue
        known = _fields(kind)
        kind = known.get(part)
        keys.append(str(part))
    return keys, known


def _fields(kind: Any, member: str | None = None) -> dict[str, Any]:
    """Names and types of the fields of settings; of a union those of the named member, or of all."""
    members = [m for m in _members(kind) if member is None or _kind_of(m) == member] or _members(kind)
    return {name: hint for m in members for name, hint in _hints(m).items()}


def _members(kind: Any) -> list[Any]:
    if typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    return list(typing.get_args(kind)) if typing.get_origin(kind) in (typing.Union, types.UnionType) else [kind]


def _hints(kind: Any) -> dict[str, Any]:
    if not isinstance(kind, type):
        return {}
    names = getattr(kind, "model_fields", None) or getattr(kind, "__dataclass_fields__", {})
    hints = typing.get_type_hints(kind, include_extras=True)
    return {name: hints[name] for name in names}


def _kind_of(member: Any) -> str | None:
    args = typing.get_args(_hints(member).get("kind"))
    return args[0] if args else None

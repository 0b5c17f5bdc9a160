"""Plug-ins from outside the repository: all five kinds in one recipe down to its Row, and what each error says."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fm import plugins
from fm.cells import cells
from fm.checkpoints import Store
from fm.data import Preparation, ShardedImages, batches, load_manifest, open_source, write_shards
from fm.errors import SettingsError
from fm.evaluation import evaluate, row_key
from fm.facts import on_data
from fm.lineage import code_digest, sources
from fm.metrics import load_features
from fm.pairing import paired
from fm.recipe import Recipe, load, opened
from fm.reference import measure_reference
from fm.solvers import solve
from fm.training import train

MODULE = '''
from dataclasses import dataclass
from fractions import Fraction

import torch

from fm.objectives import FlowMatching, Objective
from fm.paths import Path, Schedule
from fm.tableaux import Tableau
from fm.times import Times


@dataclass(frozen=True)
class Power(Path):
    """a_t = t^power, sigma_t = 1 - t."""

    power: float = 1.0

    def schedule(self, t):
        return Schedule(t**self.power, 1 - t, self.power * t ** (self.power - 1), -torch.ones_like(t), self.power / t)


@dataclass(frozen=True)
class Early(Times):
    power: float = 1.5

    def quantile(self, u):
        return u**self.power


class Halved(FlowMatching):
    def residual(self, out, sample):
        return super().residual(out, sample) / 2


def backwards(z, x_1, y=None):
    return torch.arange(len(z)).flip(0)


RALSTON = Tableau(2, (0, Fraction(2, 3)), ((), (Fraction(2, 3),)), (Fraction(1, 4), Fraction(3, 4)))


class Abstract(Path):
    pass


class Plain(Path):
    def schedule(self, t):
        return t
'''
CHANGES = [
    "path.kind=outside.members:Power",
    "path.power=2",
    "objective=outside.members:Halved",
    "training.times=outside.members:Early",
    "training.coupling=outside.members:backwards",
    'evaluation.grid=[{solver="outside.members:RALSTON", nfe=4}]',
    *("data.size=8", "data.holdout=0.3", "training.total_images=128", "model=mlp", "model.width=8", "model.depth=1"),
    *("evaluation.samples=20", "evaluation.features=random_conv", "evaluation.nll_images=2"),
]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package beside no repository, in the working folder: its file."""
    file = tmp_path / "outside" / "members.py"
    file.parent.mkdir()
    file.write_text(MODULE)
    (file.parent / "broken.py").write_text("import no_such_library\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    code_digest.cache_clear()
    yield file
    code_digest.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "outside"]:
        del sys.modules[name]


def trained(recipe: Recipe, run: Path, data: Path) -> Path:
    """RUN with a checkpoint of the recipe."""
    write_shards(open_source("photos:?tiles=24"), data, recipe.data)
    dataset = ShardedImages(data, "train")
    with opened(run, recipe):
        on_data(run, data, load_manifest(data))
    model, objective = recipe.build(dataset.shape, None)
    store = Store(run, recipe.training_digest(), dataset.digest)
    stream = lambda start: batches(dataset, recipe.training.batch_images, start=start)  # noqa: E731
    list(train(model, objective, recipe.training, paired(stream, stream, recipe.training), store))
    return run


def test_plug_ins_of_all_kinds_train_and_give_a_row_that_names_them(outside: Path, tmp_path: Path) -> None:
    recipe = Recipe.load("tiny", CHANGES)
    recipe.check()
    run = trained(recipe, tmp_path / "run", tmp_path / "data")
    assert Recipe.load(run) == recipe and Recipe.load(run).digest() == recipe.digest()
    train_set, heldout = (ShardedImages(tmp_path / "data", split) for split in ("train", "test"))
    (cell,), features = cells(recipe.evaluation), load_features("random_conv")
    flow = load(run)
    assert flow.path.power == 2.0
    row = evaluate(flow, cell, features, measure_reference(train_set, heldout, features, recipe.evaluation))
    names = ("Power", "Halved", "Early", "backwards")
    assert row["plugins"] == ", ".join(f"outside.members:{name}" for name in names) == recipe.plugins
    assert (row["path"], row["solver"]) == ("outside.members:Power", "outside.members:RALSTON")
    assert row["nfe"] == 4 and row["method"] == "Halved w/ outside.members:Power"

    def key() -> str:
        return row_key(row["weights"], cell, features.identity, row["data"], recipe.plugins)

    assert key() == row["key"] != row_key(row["weights"], cell, features.identity, row["data"])
    outside.write_text(MODULE + "\n# another version\n")
    code_digest.cache_clear()
    assert key() != row["key"] and code_digest() != row["code"]


def test_a_solver_has_the_order_of_its_tableau(outside: Path) -> None:
    found = [solve(lambda x, t: -x, torch.ones(1, 1).double(), "outside.members:RALSTON", nfe=n).x for n in (20, 40)]
    errors = [float(x) - torch.tensor(-1.0).double().exp().item() for x in found]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_another_process_imports_them_anew(outside: Path, tmp_path: Path) -> None:
    with opened(tmp_path / "run", Recipe.load("tiny", CHANGES)):
        pass
    code = "from fm.recipe import Recipe; print(Recipe.load('run').path)"
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
    assert done.stdout == "Power(power=2.0)\n", done.stderr


CANNOT = "cannot be imported ({}); as package.module:Name it must lead into a module that is installed or stands in"
NONE = CANNOT.format("ModuleNotFoundError: No module named 'outsid'")
WRONG = [
    ("path=outsid:Power", f"path: 'outsid:Power' {NONE}"),
    ("objective=outsid:Power", f"objective: 'outsid:Power' {NONE}"),
    ("training.times=outsid:Power", f"training.times: 'outsid:Power' {NONE}"),
    ("training.coupling=outsid:f", f"training.coupling: 'outsid:f' {NONE}"),
    ('evaluation.grid=[{solver="outsid:S", nfe=2}]', f"evaluation.grid.0: 'outsid:S' {NONE}"),
    ("path=outside.members:Powr", "(AttributeError: module 'outside.members' has no attribute 'Powr')"),
    ("path=outside.broken:Power", "(ModuleNotFoundError: No module named 'no_such_library')"),
    ("path=outside.members:", "cannot be imported (AttributeError"),
    ("path=outside.members:Early", "name a class derived from fm.paths.Path with its schedule"),
    ("path=outside.members:Abstract", "is not what is due; name a class derived from fm.paths.Path with its schedule"),
    ("path=outside.members:Plain", "path: 'outside.members:Plain' is no dataclass"),
    ("training.times=outside.members:Power", "name a class derived from fm.times.Times with its quantile"),
    ("objective=outside.members:Power", "derived from fm.objectives.Objective with its residual, to_velocity"),
    ("training.coupling=outside.members:RALSTON", "name a function of (z, x_1, y) that returns a permutation"),
    ('evaluation.grid=[{solver="outside.members:Power", nfe=2}]', "evaluation.grid.0: 'outside.members:Power' is not"),
    ("path.powr=3", "path.powr: unknown setting 'powr'; did you mean 'power'?"),
    ("path.power=nan", "path.power: nan given where a finite number is due"),
    ("path.power=high", 'path.power: "high" given, but input should be a valid number'),
]


@pytest.mark.parametrize(("change", "says"), WRONG, ids=[change for change, _ in WRONG])
def test_what_is_no_plug_in_is_one_sentence(outside: Path, change: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Recipe.load("tiny", ["path=outside.members:Power", change]).check()
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_sources_are_the_module_or_its_whole_package(outside: Path) -> None:
    (outside.parent.parent / "alone.py").write_text("")
    sys.path.append(str(outside.parent.parent))
    assert [file.name for file in sources("outside.members:Power")] == ["broken.py", "members.py"]
    assert [file.name for file in sources("alone:f")] == ["alone.py"]
    assert sources("nowhere:f") == []


def test_members_keep_their_names_and_schema(outside: Path) -> None:
    with pytest.raises(SettingsError, match="unknown path 'vpp'; did you mean 'vp'"):
        Recipe.load("tiny", ["path=vpp"])
    assert "outside" not in str(Recipe.model_json_schema()) and Recipe.load("tiny").plugins == ""
    assert not plugins.named("ot") and Preparation().size == 32

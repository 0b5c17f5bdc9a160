"""The house rules: what holds for every module, preset, command and dependency."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import typer.main

from flows.cli import app
from tests import formulas

ROOT = Path(__file__).parent.parent
MODULES = [f for room in ("fm", "tasks", "flows", "infra") for f in sorted((ROOT / room).rglob("*.py"))]
RUN = "a-run"
HEAVY = ("torch", "ray", "prefect", "mlflow")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("module", [m for m in MODULES if m.name != "__init__.py"], ids=relative)
def test_every_module_has_its_tests(module: Path) -> None:
    place = module.relative_to(ROOT)
    assert (ROOT / "tests" / place.parent / f"test_{place.name}").exists()


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_every_module_says_what_it_owns_and_is_one_subject(module: Path) -> None:
    text = module.read_text()
    assert not text.strip() or text.startswith('"""')
    assert len(text.splitlines()) <= 420


def test_the_top_level_is_the_agreed_one() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {name.split("/")[0] for name in tracked.splitlines()}
    files = {
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Makefile",
        "requirements.lock",
        "pyproject.toml",
    }
    assert top <= {"flows", "tasks", "fm", "infra", "tests", "prefect.yaml", ".ci", ".gitignore"} | files


def test_the_lock_holds_every_dependency_with_hashes_and_no_address() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = set(re.findall(r"(?m)^([a-z0-9._-]+)==", lock))
    for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        assert re.split(r"[\[<>=; ]", line)[0].lower() in locked, line
    assert "://" not in lock
    assert lock.count("--hash=sha256:") >= len(locked)


def test_every_formula_has_a_home_and_every_home_is_listed() -> None:
    assert formulas.wrong() == []
    assert formulas.FILE.read_text() == formulas.text(), "run `python -m tests.formulas`"


def test_a_citation_of_what_does_not_exist_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    home = formulas.Home("x.py::f", 1, "", {"equation (1)", "equation (4)", "Theorem 1"}, set())
    monkeypatch.setattr(formulas, "homes", lambda: [home])
    monkeypatch.setattr(formulas, "LAST", {"equation": 3, "Theorem": 1})
    monkeypatch.setattr(formulas, "HOMELESS", {"equation (1)": "why", "equation (2)": "why"})
    wrong = ["equation (3) has no home", "equation (1) has a home after all", "equation (4) does not exist: x.py::f"]
    assert formulas.wrong() == wrong
    text = "By equations (9), (14) and (23), equation (2), Tables 1 and 4 and table 5 (Karras et al. 2022, eq. 5)."
    assert set(formulas._cited(text)) == {*(f"equation ({n})" for n in (2, 9, 14, 23)), "Table 1", "Table 4"}
    assert formulas.OTHERS.findall(text) == ["Karras et al. 2022, eq. 5"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_an_example_and_a_line_in_the_readme(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert command.epilog.startswith("Example: fm ")
    assert f"fm {name}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--help"], "Usage: fm"),
        (["pipeline", "--help"], "--preset"),
        (["pipeline", "no-such-folder", "run", "--preset", "demo"], "error: no-such-folder: no such file or folder"),
        (["pipeline", "photos:", "run", "--preset", "dmo"], "error: unknown preset 'dmo'; did you mean 'demo'?"),
        (["evaluate", "no-such-run"], "error: no-such-run: no training here"),
        (
            ["evaluate", RUN, "--solvers", "eulr", "--nfe", "4"],
            "error: --solvers: unknown solver 'eulr'; did you mean 'e",
        ),
        (["sample", "no-such-run"], "error: no-such-run: no training here"),
        (["sample", "s4://bucket/run"], "error: s4://bucket/run: cannot be read (fsspec knows no s4://); known: "),
        (["status", "gs://bucket/run"], "error: gs://bucket/run: cannot be read (Please install gcsfs"),
        (["train", "nowhere", "run", "--preset", "gs://bucket/run"], "error: nowhere: no prepared data set here"),
        (["sample", RUN, "--solver", "eulr"], "error: --solver: unknown solver 'eulr'; did you mean 'euler'?"),
        (["sample", RUN, "--guidance", "1"], "error: --guidance and --class or --guide: go together"),
        (["sample", RUN, "--guidance-interval", "1"], "error: --guidance-interval: '1' is not two times"),
        (["gc", "no-such-run"], "error: no-such-run: no such folder; name a RUN, or `cache`"),
        (["compare", RUN], f"error: {RUN}: is one RUN alone; name another to compare it with"),
        (["compare", RUN, "no-such-run"], "error: no-such-run: no training here"),
        (["import", "no-such-file.pt", "run"], "error: no-such-file.pt: no such file"),
        (
            ["prepare", "photos:", "out", "--method", "bxo"],
            "error: method: unknown resize method 'bxo'; did you mean 'box'",
        ),
        (
            ["prepare", "photos:", "out", "--size", "0"],
            "error: size: 0 given, but input should be greater than or equal",
        ),
        (["pipeline", "photos:", "r" * 300, "--preset", "demo"], "a name in this path is too long; use names of"),
        (["pipeline", "s" * 300, "run", "--preset", "demo"], "no such file or folder"),
        (["prepare", ".", "out"], "error: out: lies inside the pictures of .; choose a folder outside of them"),
        (["evaluate", RUN, "--set", "training.seed=7"], "only evaluation.* may change after the training"),
        (["demo2d", "--data", "two_moon"], "error: --data: unknown distribution 'two_moon'; did you mean 'two_moons'?"),
        (["demo2d", f"{RUN}/recipe.json"], f"error: {RUN}/recipe.json: no folder can be made or written here"),
        (
            ["train", "--preset", "tiny", "--estimate"],
            "error: DATA: is missing; name a folder that `fm prepare`",
        ),
        (["train", "nowhere", "run", "--preset", "tiny", "--estimate"], "error: nowhere: no prepared data set here"),
        (["up", "--port-base", "1"], "error: --port-base: 1 is out of range"),
        (["pipeline", "photos:", "run", "--preset", "demo", "--wrkers", "2"], "No such option: --wrkers"),
    ],
    ids=" ".join,
)
def test_help_and_errors_load_nothing_heavy(arguments: list[str], says: str, tmp_path: Path) -> None:
    (tmp_path / RUN).mkdir()
    (tmp_path / RUN / "recipe.json").touch()
    if arguments[0] in ("pipeline", "evaluate", "prepare"):  # a developer's own services may hold the default ports
        arguments = [*arguments, "--port-base", str(urlsplit(os.environ["PREFECT_API_URL"]).port)]
    code = (
        "import sys, atexit; from flows.cli import main;"
        f"atexit.register(lambda: print('loaded:', [m for m in {HEAVY} if m in sys.modules]));"
        f"sys.argv = ['fm', *{arguments}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "loaded: []" in done.stdout
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == (0 if "--help" in arguments else 2)
    assert list(tmp_path.rglob("*")) == [tmp_path / RUN, tmp_path / RUN / "recipe.json"]


ALONE = {"torch", "numpy", "torchdiffeq", "pillow", "safetensors", "pydantic"}  # what a machine that only trains has


def test_fm_imports_with_six_libraries_alone() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    others = {re.split(r"[^\w-]", line)[0] for line in project["dependencies"]} - ALONE
    modules = sorted(name for name, sources in packages_distributions().items() if others & {*sources})
    assert {"simplejpeg", "skimage", "ray"} <= {*modules}
    code = (
        "import sys, pkgutil, importlib, fm\n"
        f"sys.modules.update(dict.fromkeys({modules}))\n"
        "for module in pkgutil.walk_packages(fm.__path__, 'fm.'): importlib.import_module(module.name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

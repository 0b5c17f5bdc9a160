import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from flows.commands.stages import measurements
from fm.errors import SettingsError
from fm.recipe import Recipe


def test_the_options_of_evaluate_are_changes_of_its_recipe() -> None:
    changes = measurements("euler,midpoint", "4,8", samples=30, nll_k=2)
    asked = Recipe.load("tiny", changes).evaluation
    assert (asked.samples, asked.nll_k) == (30, 2)
    assert [(c.solver, c.nfe) for c in asked.grid] == [("euler", 4), ("euler", 8), ("midpoint", 4), ("midpoint", 8)]
    assert measurements("", "", None, None) == []


@pytest.mark.parametrize(
    ("solvers", "nfe", "says"),
    [("euler", "", "go together"), ("euler", "4,x", "not a list of whole numbers"), ("eulr", "4", "'euler'")],
)
def test_options_of_evaluate_that_cannot_be_meant(solvers: str, nfe: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        measurements(solvers, nfe, None, None)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "OUT: is missing"),
        ([".", "--add"], "no prepared data set here"),  # the folder it runs in is an OUT
        (
            ["out", "--add", "--size", "64", "--low-size", "8"],
            "--add: keeps the settings .* --size, --low-size cannot",
        ),
    ],
)
def test_what_prepare_refuses_before_it_starts(
    tmp_path: Path, command: Callable[..., CompletedProcess[str]], words: list[str], says: str
) -> None:
    done = command("prepare", "photos:", *words, cwd=tmp_path)
    assert done.returncode == 2 and re.search(says, done.stderr), done.stderr
    assert not list(tmp_path.iterdir())

from pathlib import Path

import pytest

from fm.data.plane import DISTRIBUTIONS
from fm.demo2d.plan import PATHS, Plan, recipe
from fm.errors import SettingsError
from fm.recipe import PointRecipe, Recipe, opened, recorded


def test_paths_differ_in_the_path_alone() -> None:
    first, *others = [recipe("two_moons", path, Plan()) for path in PATHS]
    assert others
    for other in others:
        assert other.model_dump(exclude={"name", "path"}) == first.model_dump(exclude={"name", "path"})
        assert other.training_digest() != first.training_digest()


def test_recipe_of_points_comes_back_from_its_run(tmp_path: Path) -> None:
    for name in DISTRIBUTIONS:
        made = recipe(name, PATHS[0], Plan())
        with opened(tmp_path / made.name, made) as run:
            assert recorded(run) == made
            assert isinstance(recorded(run), PointRecipe)
            with pytest.raises(SettingsError, match=r"recipe\.json: is of points, not of pictures; `fm demo2d`"):
                Recipe.load(run, ["evaluation.samples=50"])

"""Which training comes next: the champion's recipe with another seed, from its weights or from scratch."""

from pathlib import Path
from typing import Any

import pytest

from fm.checkpoints import newest
from fm.data import load_manifest
from fm.errors import SettingsError
from fm.publishing import publish
from fm.recipe import Recipe
from tasks import retrain
from tasks.registry import Version
from tests.fm.test_publishing import made  # noqa: F401  DATA and a trained RUN


@pytest.fixture
def champion(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Version:  # noqa: F811
    """A version whose folder is there already, so that MLflow is not asked."""
    weights = newest(made[1]).weights  # type: ignore[union-attr]
    publish(made[1], weights, tmp_path / "m-v3", "m", [])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    return Version("m", "3", "nowhere", {"weights": weights})


def test_from_the_champions_weights(made: Any, champion: Version, tmp_path: Path) -> None:  # noqa: F811
    manifest, theirs = load_manifest(made[0]), Recipe.load(made[1])
    recipe, folder = retrain.challenger(champion, manifest, "champion", "demo", ["training.keep=7"], str(tmp_path))
    assert folder == tmp_path / "m-v3" and recipe.data == manifest.settings
    expected = {"initial_weights": champion.weights, "seed": theirs.training.seed + 1, "keep": 7}
    assert recipe.training == theirs.training.model_copy(update=expected)
    assert (recipe.model, recipe.evaluation) == (theirs.model, theirs.evaluation)
    run = retrain.run_for(recipe, manifest, "m", "runs/")
    assert run.startswith("runs/m-") and run == retrain.run_for(recipe, manifest, "m", "runs")
    scratch, _ = retrain.challenger(champion, manifest, "scratch", "demo", [], str(tmp_path))
    assert scratch.training.initial_weights is None
    assert retrain.run_for(scratch, manifest, "m", "runs") != run
    with pytest.raises(SettingsError, match="is another network than the champion's; begin from scratch"):
        retrain.challenger(champion, manifest, "champion", "demo", ["model.channels=64"], str(tmp_path))


def test_the_first_is_the_presets(made: Any, tmp_path: Path) -> None:  # noqa: F811
    manifest = load_manifest(made[0])
    recipe, folder = retrain.challenger(None, manifest, "champion", "tiny", ["training.seed=4"], str(tmp_path))
    assert folder is None and recipe.training == Recipe.load("tiny", ["training.seed=4"]).training
    assert recipe.data == manifest.settings
    retrain.from_champion(folder, recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()

"""A training on drawn images without Ray: drawn beside RUN, begun with the teacher's weights, refused without them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fm.checkpoints import INITIAL, newest
from fm.data import Manifest, load_manifest, write_shards
from fm.errors import SettingsError
from fm.facts import facts_of, on_data
from fm.keeping import named
from fm.recipe import Recipe, opened
from fm.reflow import student
from tasks import cluster, on_workers, standing
from tasks.reflow import draw
from tasks.tracking import Tracking
from tasks.train import train
from tests.fm.test_reflow import teacher  # noqa: F401  a fixture


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def shards(source: Any, data: Path, settings: Any, *_: Any) -> Manifest:
        return write_shards(source, data, settings)

    monkeypatch.setattr("tasks.reflow.prepared", shards)
    monkeypatch.setattr(cluster, "gpus_each", lambda: 0)
    monkeypatch.setattr("tasks.watching.say", lambda words: None)


def test_drawn_trained_on_and_judged_by_the_real_ones(
    teacher: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    facts, saved = facts_of(teacher), newest(teacher)
    assert saved is not None
    manifest = load_manifest(facts["data"])
    recipe, source = student(Recipe.load(teacher), str(teacher), saved.weights, 70, tolerance=1e-2)
    monkeypatch.setattr(Tracking, "_safely", lambda *_: None)  # MLflow is asked for nothing
    with opened(tmp_path / "run", recipe) as folder:
        copy = Tracking(folder, recipe)
        with pytest.raises(SettingsError, match="fm reflow"):
            train.fn(facts["data"], manifest, folder, recipe, copy)
        pairs = draw.fn(source, folder, recipe, manifest.settings, copy)
        again = draw.fn(source, folder, recipe, manifest.settings, copy)
        assert (again.data, again.manifest) == (pairs.data, pairs.manifest)
        first = load_file(folder / INITIAL)
        assert all(torch.equal(value, first[name]) for name, value in load_file(saved.path / "ema.safetensors").items())
        config = {"recipe": recipe.model_dump(mode="json"), "data": str(pairs.data), "run": str(folder)}
        on_data(folder, facts["data"], manifest, standing.order_of(recipe, pairs.manifest), pairs.facts)
        on_workers.training(config)
        done = train.fn(facts["data"], manifest, folder, recipe, copy, pairs)  # which stands, and is of these pairs
        assert done.weights != saved.weights and done.images_seen == recipe.training.total_images
        assert facts_of(folder)["digest"] == manifest.digest != pairs.manifest.digest
        told = facts_of(folder)["drawn"]
        assert told["digest"] == pairs.manifest.digest and told["weights"] == saved.weights
        on_data(folder, facts["data"], manifest)  # as an evaluation does
        assert facts_of(folder)["drawn"] == told
        own, untrained = [], []
        for job in standing.jobs(folder, recipe, done):
            (untrained if job.untrained else own).append(job)
        assert len(untrained) == 1 and own and {job.weights for job in own} == {done.weights}
        assert {one["weights"] for one in named(teacher)} == {saved.weights}  # whose checkpoint stays

import itertools
from pathlib import Path

import pytest
import torch

from fm.checkpoints import load_weights
from fm.demo2d.plan import Plan, recipe
from fm.demo2d.training import Stopped, make_all, train_run
from fm.errors import UserError
from fm.files import alone
from fm.paths import OTPath
from fm.recipe import load, opened
from fm.records import read


def test_a_run_of_points_is_loaded_and_sampled_like_any_other(moons: Path) -> None:
    flow = load(moons)
    x = flow.sample(16, nfe=8)
    assert x.shape == (16, 2) and x.is_floating_point()
    assert torch.equal(flow.sample(4, nfe=8), x[:4])
    assert flow.lineage["images_seen"] == read(moons / "records")[-1]["images_seen"] >= 60_000


def test_stopped_and_started_again_it_ends_with_the_same_weights(
    moons: Path, small: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = recipe("two_moons", OTPath(), small)
    polls = itertools.count()
    with opened(tmp_path / made.name, made) as run, pytest.raises(Stopped):
        train_run(run, made, stop=lambda: next(polls) >= 100)
    assert "stopped at 25,600 points seen; start again to go on" in capsys.readouterr().err
    train_run(run, made)
    train_run(run, made)
    said = capsys.readouterr().err
    assert "resumed at 25,600 points" in said and "trained: unchanged" in said
    weights, whole = load_weights(run)[0], load_weights(moons)[0]
    assert all(torch.equal(weights[name], whole[name]) for name in whole)


def test_noises_are_coupled_where_the_recipe_says_so(small: Plan, tmp_path: Path) -> None:
    made = recipe("two_moons", OTPath(), small)
    losses = {}
    for coupling in ("independent", "minibatch_ot"):
        changes = {"coupling": coupling, "total_images": 2560, "report_images": 2560}
        coupled = made.model_copy(update={"training": made.training.model_copy(update=changes)})
        with opened(tmp_path / coupling, coupled) as run:
            train_run(run, coupled)
        losses[coupling] = read(run / "records")[-1]["loss"]
    assert losses["minibatch_ot"] < 0.7 * losses["independent"]


def test_the_error_of_a_process_is_raised_here(small: Plan, tmp_path: Path) -> None:
    made = recipe("two_moons", OTPath(), small)
    with alone(tmp_path / "run"), pytest.raises(UserError, match="another run is at work here"):
        make_all([(tmp_path / "run", made)], small)

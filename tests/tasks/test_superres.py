"""What the page of super-resolution is made from, on pairs and networks of a few pixels, all in this process."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fm.data import ShardedImages, open_source, write_shards
from fm.enlarging import bicubic
from fm.facts import on_data
from fm.metrics import psnr
from fm.paper.trained import Trained
from fm.recipe import opened
from fm.reference import pairs
from fm.results import read_rows
from fm.superres.plan import METHODS, planned
from tasks import cluster, measuring, on_workers, paper, standing, superres
from tasks.paper import Pictures, options

CHANGES = (
    "training.total_images=64",
    "training.warmup_images=0",
    "evaluation.samples=30",
    "evaluation.reference_images=30",
    "evaluation.grid=[{solver='dopri5', tolerance=1e-1}]",
    "evaluation.features=random_conv",
    "data.holdout=0.5",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A comparison of two methods, trained and measured."""
    folder = tmp_path_factory.mktemp("superres")
    plan = planned("photos", methods=["regression", "fm-ot"], changes=CHANGES)
    source, data = open_source("photos:?tiles=80"), folder / "data"
    manifest = write_shards(source, data, plan.recipe.data)
    found = []
    for member in plan.members:
        with opened(folder / member.folder, member.recipe) as run:
            on_data(run, data, manifest, standing.order_of(member.recipe, manifest))
            values = member.recipe.model_dump(mode="json")
            on_workers.training({"recipe": values, "data": str(data), "run": str(run)})
            saved = standing.trained(run, member.recipe, manifest).left
            assert saved is not None
            for job in standing.jobs(run, member.recipe, saved):
                for share in job.missing():
                    share.keep(measuring.found(share))
                measuring.row(job)
            rows = tuple(row for row in read_rows(run) if row["method"] != "untrained")
        found.append(Trained(member.method, member.seed, str(run), rows, trained_by=("c",)))
    return {"plan": plan, "given": Pictures(data, manifest), "found": found, "folder": folder}


def test_rows_hold_what_super_resolution_is_judged_by(made: dict[str, Any]) -> None:
    for one in made["found"]:
        (row,) = one.rows
        assert row["low_size"] == 16 and 5 < row["psnr"] < 60 and row["low_psnr"] > row["psnr"] - 1
    assert (Path(made["found"][0].where) / "samples" / "seen-000000000064.png").exists()


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(function: Any, items: Any, **_: Any) -> Any:
        return [cluster.Outcome(item, function(item)) for item in items]

    monkeypatch.setattr(cluster, "ray_map", here)
    monkeypatch.setattr(cluster, "gpus_each", lambda: 0.0)


def test_the_bicubic_baseline_is_of_the_same_images(made: dict[str, Any]) -> None:
    row = superres._bicubic(made["plan"], made["given"], made["found"])
    given = pairs(ShardedImages(made["given"].data, "test"), 0, 30)
    assert row["psnr"] == pytest.approx(float(psnr(bicubic(given.low, 64), given.images).mean()))
    assert row["samples"] == 30 and "fd_random_conv" in row and row["fd_random_conv_floor"] is not None
    assert superres._bicubic(made["plan"], made["given"], [])["method"] == "Bicubic"


def test_every_method_answers_to_the_same_small_pictures(made: dict[str, Any]) -> None:
    answers = superres._answers(made["found"], str(made["given"].data))
    assert answers is not None and [*answers.by_method] == ["Bicubic", "Regression", "FM w/ OT"]
    assert answers.truth.shape == (16, 3, 64, 64) and answers.varied.shape == (4, 16, 3, 64, 64)
    assert torch.equal(answers.varied[0], answers.by_method["FM w/ OT"])
    assert superres._answers([], "") is None
    alone = superres._answers(made["found"][:1], str(made["given"].data))
    assert alone is not None and alone.varied is None and [*alone.by_method] == ["Bicubic", "Regression"]


def test_the_commands_repeat_it(made: dict[str, Any]) -> None:
    asked = options(made["plan"], made["given"], METHODS)
    first, again = paper._commands(made["folder"], made["found"], ["superres", *asked])
    assert first.startswith(f"fm superres {made['folder']} --dataset photos --seeds 1 --source ")
    assert "--methods regression,fm-ot" in first and again.startswith("fm evaluate --rerun ")
    (use,) = superres._use(made["found"])
    assert "--low SMALL_PICTURE" in use and METHODS["fm-ot"].key in use

import json
from pathlib import Path
from typing import Any

import pytest

from fm.checkpoints import Saved
from fm.errors import DataError, SettingsError, Unfinished
from fm.paper import reading
from fm.paper.methods import METHODS
from fm.paper.plan import planned
from fm.paper.trained import Trained
from fm.records import Recorder
from tasks import paper, watching

SAVED = Saved(120_000, 1.0, Path("c"), "f" * 64)


@pytest.fixture(autouse=True)
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(watching, "say", lines.append)
    return lines


def a_row(nfe: int, weights: str = SAVED.weights, seen: int = 120_000, **more: Any) -> dict[str, Any]:
    cell = f'{{"solver": "midpoint", "nfe": {nfe}, "samples": 256}}'
    row = {"key": f"{nfe}{weights[0]}", "method": "DDPM", "solver": "midpoint", "nfe": nfe, "tolerance": None}
    return row | {"weights": weights, "images_seen": seen, "samples": 256, "cell": cell} | more


def test_rows_are_sorted_by_what_they_are_of(tmp_path: Path) -> None:
    member = planned("photos", seeds=1, methods=["ddpm"]).members[0]
    rows = [a_row(16), a_row(8), a_row(16, "b" * 64, 40_000), a_row(16, "a" * 64, 20_000)]
    rows += [a_row(4, "untrained", 0, method="untrained"), a_row(32, failed="no memory")]
    Recorder(tmp_path / "records").write(64, 1.0, loss=2.0)
    Recorder(tmp_path / "records", "solving").write(64, 1.0, nfe=50)
    found = paper.trained(member, tmp_path, member.recipe, SAVED, rows)
    assert [row["nfe"] for row in found.rows] == [16, 8, 32]  # the failed one at its place
    assert found.along[-1] is found.rows[0]
    assert [row["images_seen"] for row in found.along] == [20_000, 40_000, 120_000]
    assert (found.records[0]["loss"], found.solving[0]["nfe"]) == (2.0, 50)
    assert found.failed == "1 cell failed: no memory"


def test_no_coarser_row_stands_in_for_a_failed_one(tmp_path: Path) -> None:
    """Samples at the finest tolerance failed: of 20 samples at another there are figures, but none of the table's."""
    member = planned("photos", seeds=1, methods=["ddpm"]).members[0]
    rows = []
    for tolerance, samples in ((1e-4, 20), (1e-5, 256)):
        cell = {"solver": "dopri5", "tolerance": tolerance, "samples": samples, "batch": 64}
        rows.append(a_row(50) | cell | {"key": f"{samples}", "cell": json.dumps(cell), "nfe_mean": float(samples)})
    whole = paper.trained(member, tmp_path, member.recipe, SAVED, rows)
    assert reading.nfe(whole) == 256
    rows[1] = {k: v for k, v in rows[1].items() if k not in ("nfe", "nfe_mean")} | {"failed": "no memory"}
    found = paper.trained(member, tmp_path, member.recipe, SAVED, rows)
    assert reading.nfe(found) is None and reading.distance("fd_x")(found) is None and found.failed


def test_what_failed_is_said_at_the_end() -> None:
    fine = Trained(METHODS["fm-ot"], 0, "runs/ot", (a_row(8),))
    paper.all_shown("out", [fine])
    failed = Trained(METHODS["ddpm"], 1, "runs/ddpm", failed="loss 1e9 at 64 images")
    with pytest.raises(Unfinished, match=r"out: 1 of 2 rows .*: DDPM seed 1 \(loss 1e9 at 64 images\)"):
        paper.all_shown("out", [fine, failed])


def test_data_that_do_not_come_with_the_project_have_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--source: CIFAR-10 does not come .*; name its pictures with --source"):
        paper.pictures("", planned("cifar10"), tmp_path, allowed=False)


def test_other_data_are_refused_or_marked(prepared_photos: Path, tmp_path: Path) -> None:
    plan = planned("cifar10", "mini")
    with pytest.raises(DataError, match="has 8 classes, where CIFAR-10 has 10; take the published data, or"):
        paper.pictures(str(prepared_photos), plan, tmp_path, allowed=False)
    given = paper.pictures(str(prepared_photos), plan, tmp_path, allowed=True)
    assert "where CIFAR-10 has 10" in given.marked and given.data == prepared_photos
    with pytest.raises(DataError, match="its pictures are of 32 px, imagenet64-full is of 64"):
        paper.pictures(str(prepared_photos), planned("imagenet64", "full"), tmp_path, allowed=True)


def test_an_address_is_no_folder_for_a_comparison() -> None:
    refused = pytest.raises(SettingsError, match=r"s3://bucket/x: is an address, .* give a folder")
    with refused, paper.together("s3://bucket/x", planned("photos")):
        pass


@pytest.fixture
def prepared_photos(tmp_path: Path) -> Path:
    from fm.data import Preparation, open_source, write_shards

    write_shards(open_source("photos:?tiles=20"), tmp_path / "data", Preparation(size=32))
    return tmp_path / "data"

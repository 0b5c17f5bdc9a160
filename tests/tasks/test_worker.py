"""A training on two machines, the second without this project: what one process trains, and a log for each rank."""

import re
from pathlib import Path

import pytest

from fm.data import load_manifest, open_source, write_shards
from fm.recipe import Recipe, on_data, opened
from fm.records import read
from tasks import on_workers
from tasks.worker import logs_of
from tests.two_nodes import ADDRESSES, possible, two_nodes

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_machines_train_what_one_process_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not possible():
        pytest.skip("network namespaces cannot be made here")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("FM_STATE", str(tmp_path / "state"))
    recipe, data = Recipe.load("tiny", ["training.total_images=640"]), tmp_path / "data"
    write_shards(open_source("photos:?tiles=60"), data, recipe.data)
    with opened(tmp_path / "alone", recipe) as run:
        on_data(run, data, load_manifest(data))
        on_workers.training({"recipe": recipe.model_dump(mode="json"), "data": str(data), "run": str(run)})

    with two_nodes(tmp_path / "cluster") as cluster:
        log = tmp_path / "bare.log"
        assert cluster.start("fm-node", "-c", "import fm", log=log).wait() == 1
        assert "No module named 'fm'" in log.read_text()

        def train(run: Path) -> tuple[int, str]:
            command = ["-m", "flows.cli", "train", str(data), str(run), "--preset", "tiny"]
            command += ["--set", "training.total_images=640", "--address", cluster.address, "--port-base", "29400"]
            log = tmp_path / f"{run.name}.log"
            return cluster.start("fm-head", *command, log=log).wait(), log.read_text()

        code, said = train(tmp_path / "two")
        assert code == 0, said
        alone, two = ([row["loss"] for row in read(tmp_path / run / "records")] for run in ("alone", "two"))
        assert len(alone) == 10 and two == pytest.approx(alone, rel=1e-5)
        logs = [(logs_of(tmp_path / "two") / f"rank-{rank}.log").read_text() for rank in (0, 1)]
        assert {re.search(r"rank \d of 2 on (\S+),", log)[1] for log in logs} == {*ADDRESSES.values()}  # type: ignore[index]

        other = (
            next((tmp_path / "cluster" / "venv" / "lib").glob("python*")) / "site-packages" / "numpy-0.0.1.dist-info"
        )
        other.mkdir()
        (other / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.0.1\n")
        code, said = train(tmp_path / "mixed")
        assert code == 2
        assert "10.77.0.2: differs from where the run was started: numpy 0.0.1, now" in said.splitlines()[-1]

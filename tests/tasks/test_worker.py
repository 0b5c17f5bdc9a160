"""A training on two machines, the second without this project: what one process trains, and a log for each rank."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from fm.data import load_manifest, open_source, write_shards
from fm.facts import on_data
from fm.recipe import Recipe, opened
from fm.records import read
from tasks import on_workers
from tasks.worker import logs_of
from tests.two_nodes import ADDRESSES, possible, two_nodes

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What both tests need: network namespaces, the project's path, services of their own."""
    if not possible():
        pytest.skip("network namespaces cannot be made here")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("FM_STATE", str(tmp_path / "state"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_machines_train_what_one_process_trains(tmp_path: Path) -> None:
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


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_machines_without_a_shared_file_system(tmp_path: Path) -> None:
    """DATA and RUN at an S3 server; a machine is killed, then the driver, whose copy is deleted: no bit changes."""
    keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}
    server = {"AWS_ENDPOINT_URL": f"http://{ADDRESSES['fm-head']}:5599"}
    with two_nodes(tmp_path / "cluster", **keys, **server) as cluster:
        cache = tmp_path / "cluster" / "fm-head" / "cache"

        def python(*arguments: str) -> str:
            log = tmp_path / "python.log"
            log.unlink(missing_ok=True)
            assert cluster.start("fm-head", *arguments, log=log).wait() == 0, log.read_text()
            return log.read_text()

        def train(name: str) -> subprocess.Popen[bytes]:
            more = ["training.save_images=640", "training.total_images=6400"]
            command = ["-m", "flows.cli", "train", "s3://bucket/data", f"s3://bucket/runs/{name}", "--preset", "tiny"]
            command += ["--set", more[0], "--set", more[1], "--address", cluster.address, "--port-base", "29400"]
            return cluster.start("fm-head", *command, log=tmp_path / f"{name}.log")

        def until(process: subprocess.Popen[bytes], images: int) -> None:
            deadline = time.monotonic() + 200
            while not any(read(found, after=images - 1) for found in cache.glob("runs/*/driver/two/records")):
                assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "two.log").read_text()
                time.sleep(0.1)

        def weights(name: str) -> str:
            return python("-c", f"import fm; print(fm.load('s3://bucket/runs/{name}').lineage['weights'])").split()[-1]

        cluster.start("fm-head", "-m", "moto.server", "-H", ADDRESSES["fm-head"], "-p", "5599", log=tmp_path / "s3.log")
        write_shards(open_source("photos:?tiles=60"), tmp_path / "data", Recipe.load("tiny").data)
        put = "import time, s3fs; time.sleep(5); fs = s3fs.S3FileSystem(); fs.mkdir('bucket'); "
        python("-c", put + f"fs.put({str(tmp_path / 'data')!r}, 'bucket/data', recursive=True)")
        shutil.rmtree(tmp_path / "data")
        assert train("undisturbed").wait() == 0, (tmp_path / "undisturbed.log").read_text()

        process = train("two")
        until(process, 1500)
        cluster.kill("fm-node")
        time.sleep(5)
        cluster.ray("fm-node", 1)
        until(process, 4000)
        process.kill()
        process.wait()
        shutil.rmtree(cache, ignore_errors=True)
        assert train("two").wait() == 0, (tmp_path / "two.log").read_text()
        assert weights("two") == weights("undisturbed")
        status = json.loads(python("-m", "flows.cli", "status", "s3://bucket/runs/two", "--json").splitlines()[-1])
        assert status["checkpoint"] == status["images_seen"] == 6400 and status["stage"] == ""
        (records,) = cache.glob("runs/*/driver/two/records")
        assert [row["images_seen"] for row in read(records)] == [*range(64, 6401, 64)]
        logs = [(logs_of(records.parent) / f"rank-{rank}.log").read_text() for rank in (0, 1)]
        assert {re.search(r"rank \d of 2 on (\S+),", log)[1] for log in logs} == {*ADDRESSES.values()}  # type: ignore[index]

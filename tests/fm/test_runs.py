"""RUN in a folder and at an address: one driver at a time, its workers' files, and two machines that take turns."""

import contextlib
import time

import pytest
import s3fs

from fm import leases, runs
from fm.data import addresses
from fm.errors import UserError
from fm.files import read_json, write_json
from fm.mirror import LEAVE, MACHINE, WORKER, Mirror
from fm.records import Recorder, read
from tests.fm.data.serving import moto


@pytest.fixture
def address(s3, tmp_path, monkeypatch):
    """Of a RUN that nobody has written to; copies are looked at often, failures waited for briefly."""
    monkeypatch.setenv("FM_CACHE", str(tmp_path / "here"))
    monkeypatch.setattr(runs, "EVERY_S", 0.05)
    monkeypatch.setattr(addresses, "PAUSES_S", (0.1,))
    return f"s3://bucket/{tmp_path.name}/run"


def soon(true, limit_s=20):
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lease(address, **said):
    """Another's word that it is the driver, by a name that comes before all others."""
    mirror = Mirror(address, "other")
    write_json(mirror.folder / ".leases" / "0", {"host": "elsewhere", "space": "", "time": time.time()} | said)
    mirror.put(".leases/0")


def test_a_folder_is_its_own_copy_and_costs_nothing(tmp_path):
    run = tmp_path / "run"
    with runs.held(run) as folder, runs.working(str(run), True) as same:
        assert folder == run and same == run and runs.of(folder) == str(run) and runs.pulled(run, "ema") == run
        runs.refresh(folder)
        runs.sent(run)
        with pytest.raises(UserError, match="another run is at work here"), runs.held(run):
            pass
    assert [path.name for path in run.iterdir()] == [".lock"]


def test_what_either_side_writes_the_other_sees(address, tmp_path):
    with runs.held(address) as driver:
        assert runs.of(driver) == address and driver.name == "run"
        write_json(driver / "recipe.json", {"a": 1})
        soon(lambda: "recipe.json" in Mirror(address, "other").there("driver"))
        with runs.working(address, True) as worker:
            assert worker != driver and read_json(worker / "recipe.json") == {"a": 1}
            Recorder(worker / "records").write(64, time.time(), loss=1.0)
            soon(lambda: len(read(driver / "records")) == 1)
            (driver / ".ray").mkdir()
            (driver / LEAVE).touch()
            soon((worker / LEAVE).exists)
        write_json(driver / "recipe.json", {"a": 2})
        assert runs.pulled(address) == driver and read_json(driver / "recipe.json") == {"a": 2}
        assert (runs.at_work(address), runs.of(worker)) == (True, str(worker))
    assert not runs.at_work(address)
    for first in (False, True):  # what was told then does not count now, whoever is on that machine
        (worker / LEAVE).touch()
        with runs.held(address), runs.working(address, first) as worker:
            time.sleep(0.3)
            assert not (worker / LEAVE).exists()


def test_other_machines_send_their_logs_and_load(address, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "MACHINE_S", 0.05)
    with runs.held(address) as driver, runs.working(address, True) as worker:
        monkeypatch.setenv("FM_CACHE", str(tmp_path / "there"))
        log = runs.joined(address) / "logs" / "rank-1.log"
        log.parent.mkdir(parents=True)
        log.write_text("one\n")
        with runs.working(address, False) as other:
            assert other != worker
            Recorder(other / "records", "system-1").write(64, time.time(), cpu=1.0)
            soon(lambda: len(read(driver / "records", name="system-1")) == 1)
        log.write_text("one\ntwo\n")
        runs.sent(address)
        soon(lambda: (driver / "logs" / "rank-1.log").read_text() == "one\ntwo\n")
        monkeypatch.setenv("FM_CACHE", str(tmp_path / "third"))
        assert (runs.joined(address) / "logs" / "rank-1.log").read_text() == "one\ntwo\n"


def test_a_training_that_could_send_nothing_for_minutes_ends_with_a_word(address, monkeypatch):
    monkeypatch.setattr(runs, "PATIENCE_S", 0.0)
    fails = [True]
    real = Mirror.put
    monkeypatch.setattr(addresses, "PAUSES_S", ())

    def put(self, name):
        if fails[0] and self.side == WORKER:
            raise UserError("away")
        return real(self, name)

    monkeypatch.setattr(Mirror, "put", put)
    with (
        pytest.raises(UserError, match="nothing could be written for 0 minutes"),
        runs.working(address, True) as worker,
    ):
        Recorder(worker / "records").write(64, time.time())
        soon((worker / LEAVE).exists)
        fails[0] = False
    assert "records/train.jsonl" in Mirror(address, "other").there(WORKER)


def taken_over(address):
    """Another machine finds the driver there dead, and is the driver."""
    for name in leases._leases(Mirror(address, "other")):
        Mirror(address, "other").remove(f".leases/{name}")
    lease(address, process=7)


def test_who_was_taken_for_dead_sends_nothing_more_and_its_worker_leaves(address):
    with pytest.raises(UserError, match="process 7 of elsewhere"), runs.held(address) as driver:
        word = runs.driver_of(driver)
        with runs.working(address, True, word) as worker:
            taken_over(address)
            soon((worker / LEAVE).exists)
            Recorder(worker / "records").write(64, time.time())
            (worker / ".ray" / "error-7.json").touch()
        runs.sent(address)
        write_json(driver / "recipe.json", {})
        with pytest.raises(UserError, match="process 7 of elsewhere"):
            runs.refresh(driver)
    assert Mirror(address, "other").there("driver", WORKER, MACHINE) == {}


def test_a_worker_that_starts_after_another_took_over_is_not_the_others(address):
    with pytest.raises(UserError, match="process 7 of elsewhere"), runs.held(address) as driver:
        taken_over(address)
        with runs.working(address, True, runs.driver_of(driver)) as worker:
            Recorder(worker / "records").write(64, time.time())
            soon((worker / LEAVE).exists)
    assert Mirror(address, "other").there(WORKER) == {}


def test_a_server_that_is_away_for_seconds_costs_nothing(address, monkeypatch):
    monkeypatch.setattr(addresses, "PAUSES_S", (1, 1, 1, 1, 1))
    with contextlib.ExitStack() as server, contextlib.ExitStack() as stack:
        there = server.enter_context(moto())
        monkeypatch.setenv("AWS_ENDPOINT_URL", there)
        s3fs.S3FileSystem.clear_instance_cache()
        driver = stack.enter_context(runs.held(address))
        worker = stack.enter_context(runs.working(address, True))
        server.close()
        Recorder(worker / "records").write(64, time.time())
        time.sleep(3)
        assert read(driver / "records") == [] and not (worker / LEAVE).exists()
        server.enter_context(moto(int(there.rpartition(":")[2])))
        soon(lambda: read(driver / "records"))
    s3fs.S3FileSystem.clear_instance_cache()

"""One driver at a time, on a real S3 server."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fm import leases, runs
from fm.errors import UserError
from fm.files import read_json
from fm.mirror import Mirror
from tests.fm.test_runs import address, lease, soon

__all__ = ["address"]  # a fixture


def test_one_driver_at_a_time(address):
    lease(address, process=7)
    says = f"^{address}: another run is at work here, process 7 of elsewhere; wait for its end, or a minute if it was"
    with pytest.raises(UserError, match=says), runs.held(address):
        pass
    lease(address, process=7, time=time.time() - 61)
    assert not runs.at_work(address)
    with runs.held(address) as folder, pytest.raises(UserError, match="another run is at work"), runs.held(address):
        pass
    lease(address, **leases._me() | {"process": 2**22 + 1})  # no such process
    with runs.held(address) as folder:
        assert folder.exists()


@pytest.mark.parametrize("elsewhere", ["", "another boot 4026531836"])
def test_only_where_a_process_counts_is_its_absence_a_proof(address, elsewhere):
    lease(address, **leases._me() | {"process": 2**22 + 1, "space": elsewhere})
    with pytest.raises(UserError, match="another run is at work here"), runs.held(address):
        pass
    lease(address, **leases._me() | {"space": elsewhere})  # one process's number and host, and another process
    with pytest.raises(UserError, match="another run is at work here"), runs.held(address):
        pass


@pytest.mark.parametrize("said", ['{"host": ', "[]", "{}"])
def test_a_torn_lease_is_anothers_until_it_is_old(address, said, monkeypatch):
    mirror = Mirror(address, "other")
    (mirror.folder / ".leases").mkdir(parents=True)
    (mirror.folder / ".leases" / "0").write_text(said)
    mirror.put(".leases/0")
    with pytest.raises(UserError, match="another run is at work here, process 0 of another machine"):
        runs.held(address).__enter__()
    monkeypatch.setattr(leases, "LEASE_S", -5.0)
    assert not runs.at_work(address)


@pytest.mark.parametrize("held_up", ["before", "after"])
def test_of_drivers_that_ask_at_once_one_is_it(address, tmp_path, monkeypatch, held_up):
    put, all_asked, refused = Mirror.put, threading.Barrier(3), threading.Semaphore(0)

    def asked(self, name):
        if held_up == "after":
            sent = put(self, name)
        all_asked.wait()
        return sent if held_up == "after" else put(self, name)

    def drive(folder):
        try:
            with leases.leased(Mirror(address, "driver", folder)) as driver:
                assert refused.acquire(timeout=20) and refused.acquire(timeout=20)
                return driver
        except UserError as error:
            refused.release()
            return str(error)

    monkeypatch.setattr(Mirror, "put", asked)
    with ThreadPoolExecutor(3) as threads:
        ended = list(threads.map(drive, [tmp_path / name for name in "abc"]))
    assert sorted("another run is at work here" in one for one in ended) == [False, True, True]


def test_who_asks_too_slowly_finds_that_it_was_taken_for_dead(address, monkeypatch):
    put = Mirror.put

    def slow(self, name):
        monkeypatch.setattr(Mirror, "put", put)
        lease(address, process=7)
        return put(self, name)

    monkeypatch.setattr(Mirror, "put", slow)
    with pytest.raises(UserError, match="process 7 of elsewhere"), runs.held(address):
        pass
    assert list(leases._leases(Mirror(address, "other"))) == ["0"]


def test_a_driver_says_again_and_again_that_it_is_at_work_and_at_last_that_it_is_not(address, monkeypatch):
    monkeypatch.setattr(leases, "RENEW_S", 0.02)
    with runs.held(address) as folder:
        (own,) = (folder / ".leases").glob("[!.]*")
        first = read_json(own)["time"]
        soon(lambda: read_json(own)["time"] > first)
    assert not runs.at_work(address)

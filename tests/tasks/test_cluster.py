"""Mapped work on the real Ray of this test run: order, errors, dead workers; and errors out of Ray's wrappers."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fm.errors import DataError, MachineError, SettingsError, UserError
from tasks import cluster, items
from tasks.place import Place


@pytest.fixture
def ray(services: Any) -> Iterator[None]:
    with cluster.session(Place()):
        yield


def slow_square(x: int) -> int:
    time.sleep(0.2 if x == 0 else 0.0)
    if x == 3:
        raise DataError("is three", "there", "take another")
    if x == 4:
        raise ZeroDivisionError("ours")
    return x * x


def dies_once(marker: str) -> str:
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def dies(x: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fails(count: Path) -> None:
    """Leaves a mark for each time it is called."""
    with open(count, "a") as file:
        file.write("x")
    if count.name == "system":
        raise OSError(5, "Input/output error")
    if count.name == "disk":
        raise MachineError("cannot be read (Input/output error)", "/disk")
    raise DataError("wrong", "there")


def first_waits_for_ten(job: tuple[Path, int]) -> int:
    """More than are under way at once on two slots."""
    folder, number = job
    (folder / str(number)).touch()
    deadline = time.monotonic() + 60
    while number == 0 and len(list(folder.iterdir())) < 10:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return number


def test_outcomes_come_in_the_items_order_each_with_its_own_error(ray: None) -> None:
    outcomes = list(cluster.ray_map(slow_square, range(6)))
    assert [o.item for o in outcomes] == list(range(6))
    assert [o.value for o in outcomes] == [0, 1, 4, None, None, 25]
    assert type(outcomes[3].error) is DataError
    assert str(outcomes[3].error) == "there: is three; take another"
    assert isinstance(outcomes[4].error, ZeroDivisionError)


def test_a_dead_workers_item_is_tried_again_aloud(ray: None, tmp_path: Path) -> None:
    said: list[Any] = []
    (outcome,) = cluster.ray_map(dies_once, [str(tmp_path / "died")], lost=lambda *told: said.append(told))
    assert outcome.value == "alive"
    assert said == [(str(tmp_path / "died"), "its worker died")]


def test_one_that_dies_every_time_is_one_sentence(ray: None) -> None:
    said: list[Any] = []
    (outcome,) = cluster.ray_map(dies, [1], retries=1, lost=lambda *told: said.append(told))
    assert type(outcome.error) is UserError and len(said) == 1
    assert str(outcome.error).startswith("its worker died, 2 times in a row; start again, which keeps what is done")


def test_what_a_machine_fails_is_tried_again_and_what_a_user_must_mend_is_not(ray: None, tmp_path: Path) -> None:
    said: list[Any] = []
    counts = [tmp_path / "system", tmp_path / "disk", tmp_path / "user"]
    outcomes = list(cluster.ray_map(fails, counts, lost=lambda item, why: said.append((item.name, why))))
    assert [path.read_text() for path in counts] == ["xxx", "xxx", "x"]
    assert sorted(said) == [
        *2 * [("disk", "/disk: cannot be read (Input/output error)")],
        *2 * [("system", "OSError: [Errno 5] Input/output error")],
    ]
    assert [type(outcome.error) for outcome in outcomes] == [OSError, MachineError, DataError]


class Hanging(str):
    """A folder; the item of its name hangs there in each of the ways in turn, which it is told to go in."""

    name = "shard 7"


def hangs(folder: Hanging) -> str:
    for way in ("asleep", "stopped"):
        if not (Path(folder) / way).exists():
            (Path(folder) / way).touch()
            if way == "stopped":
                time.sleep(0.5)  # so that its word that it has begun is on the wire
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(600)
    return "done"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_item_that_hangs_is_ended_and_tried_once_more(services: Any, tmp_path: Path) -> None:
    said: list[str] = []
    with cluster.session(Place(silent_s=2)):
        (never,) = cluster.ray_map(hangs, [Hanging(tmp_path)], lost=lambda _, why: said.append(why))
        assert said == ["it did nothing after more than 2 s and was ended"]
        assert str(never.error) == (
            "shard 7: it did nothing after more than 2 s and was ended, 2 times in a row; start again, which keeps "
            "what is done; one that only waits for long wants a longer silent_s of the place (FM_SILENT_S)"
        )
        (tmp_path / "stopped").unlink()  # so it hangs once
        (late,) = cluster.ray_map(hangs, [Hanging(tmp_path)])
        assert late.value == "done"
        slots = int(cluster._connect().cluster_resources()["CPU"])  # which those that hung let go of
        assert [outcome.value for outcome in cluster.ray_map(takes_a_while, range(slots + 1))] == [*range(slots + 1)]


class Imports(str):
    """A folder; who unpickles an item of it, its worker alone, is stopped the first time, before it can say a word."""

    name = "shard 8"

    def __reduce__(self) -> Any:
        return imported, (str(self),)


def imported(folder: str) -> Imports:
    if not (Path(folder) / "imported").exists():
        (Path(folder) / "imported").touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    return Imports(folder)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_item_whose_worker_hangs_before_it_begins_is_asked_for_again(
    services: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "BEGIN_S", 20)
    said: list[tuple[str, str]] = []
    with cluster.session(Place(silent_s=2)):
        slots = int(cluster._connect().cluster_resources()["CPU"])
        work = [Imports(tmp_path), *map(str, range(2 * slots - 1))]
        got = cluster.ray_map(named, work, cpus=slots, lost=lambda item, why: said.append((item, why)))
        assert [outcome.value for outcome in got] == work
    assert (work[0], "no worker had begun it after more than 22 s") in said  # who waited behind it is asked for too


def named(item: str) -> str:
    return str(item)


def computes(seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "done"


@pytest.mark.timeout(120)
def test_an_item_that_is_slow_and_computes_goes_on(services: Any) -> None:
    said: list[str] = []
    with cluster.session(Place(silent_s=2)):
        (slow,) = cluster.ray_map(computes, [12.0], lost=lambda _, why: said.append(why))
    assert slow.value == "done" and said == []


def takes_a_while(x: int) -> int:
    time.sleep(1.5)
    return x


def test_items_that_wait_for_a_slot_do_not_hang(services: Any) -> None:
    slots = os.cpu_count() or 1
    with cluster.session(Place(silent_s=4)):
        outcomes = list(cluster.ray_map(takes_a_while, range(6 * slots)))
    assert [outcome.error for outcome in outcomes] == [None] * 6 * slots


def warns(x: int) -> int:
    print(f"{x} looks odd")
    return x


def test_lines_of_workers_are_told(ray: None) -> None:
    told: list[str] = []
    list(cluster.ray_map(warns, range(3), tell=told.append))
    assert sorted(told) == ["0 looks odd", "1 looks odd", "2 looks odd"]


def test_a_signal_inside_rays_compiled_code_is_what_its_handler_raised() -> None:
    class Compiled:
        def wait(self, *_: Any, **__: Any) -> None:
            raise SystemError("returned a result with an exception set") from KeyboardInterrupt()

    with pytest.raises(KeyboardInterrupt):
        cluster._speaking(Compiled(), [object()])


def test_a_slow_item_holds_nobody_up_and_few_outcomes_wait_for_it(ray: None, tmp_path: Path) -> None:
    taken: list[tuple[Path, int]] = []

    def items() -> Iterator[tuple[Path, int]]:
        for number in range(1000):
            taken.append((tmp_path, number))
            yield taken[-1]

    stream = cluster.ray_map(first_waits_for_ten, items())
    assert [outcome.value for outcome in itertools.islice(stream, 3)] == [0, 1, 2]
    assert 10 < len(taken) <= 10 * (os.cpu_count() or 1) + 3


def test_more_workers_than_slots_are_refused(services: Any, tmp_path: Path) -> None:
    workers = 500
    with (
        cluster.session(Place(workers=workers)),
        pytest.raises(SettingsError, match=f"place.workers: {workers} workers asked for, but the cluster has"),
    ):
        cluster.fit(print, {}, "name", tmp_path, lambda: None)


def test_a_cluster_that_does_not_answer_is_one_sentence(services: Any) -> None:
    with cluster.session(Place(address="127.0.0.1:9")), pytest.raises(UserError, match="no Ray cluster answers"):
        list(cluster.ray_map(slow_square, [1]))


def test_what_answers_but_is_no_ray_is_one_sentence_at_once(services: Any) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    start = time.monotonic()
    with (
        cluster.session(Place(address=f"127.0.0.1:{server.server_port}")),
        pytest.raises(UserError, match="something answers there that is no Ray cluster; give the address"),
    ):
        list(cluster.ray_map(slow_square, [1]))
    assert time.monotonic() - start < 20
    server.shutdown()


def test_gpus_that_must_be_and_are_not_are_refused(services: Any, tmp_path: Path) -> None:
    with (
        cluster.session(Place(workers=1, gpus="all", wait_s=1)),
        pytest.raises(SettingsError, match=r"1 worker asked for, but the cluster has 0 GPUs; take CPUs \(gpus: none"),
    ):
        cluster.fit(print, {}, "name", tmp_path, lambda: None)


def silent(config: dict[str, Any]) -> None:
    time.sleep(600)


@pytest.mark.slow
def test_a_training_whose_workers_say_nothing_is_ended(services: Any, tmp_path: Path) -> None:
    place = Place(workers=1, silent_s=20)
    with (
        cluster.session(place),
        pytest.raises(UserError, match=r"the workers have said nothing for 2\d s; start again"),
    ):
        cluster.fit(silent, {}, "silent", tmp_path, lambda: None)


def test_slots_that_other_work_holds_are_waited_for_aloud(ray: None, tmp_path: Path) -> None:
    ray_ = cluster._connect()
    held = ray_.remote(num_cpus=1)(lambda: time.sleep(600)).remote()
    while ray_.available_resources().get("CPU", 0) == ray_.cluster_resources()["CPU"]:
        time.sleep(0.1)
    said: list[str] = []
    workers = int(ray_.cluster_resources()["CPU"])
    with pytest.raises(SettingsError, match=f"{workers} workers asked for, .* CPUs, {workers - 1} of them free"):
        cluster._slots(ray_, Place(workers=workers, wait_s=2), said.append)
    assert len(said) == 1 and said[0].startswith(f"waits up to 2 s for {workers} slots")
    ray_.cancel(held, force=True)
    assert not cluster._slots(ray_, Place(workers=workers, wait_s=60), said.append)


def alone(script: str, folder: Path) -> list[str]:
    """The lines that a script prints in a process of its own, with a Ray of its own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}  # not the tests' cluster
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


LOGICAL_GPUS = """
import json, os, sys
from pathlib import Path
from tasks import cluster, items, trainer
from tasks.place import Place

run = Path(sys.argv[1])

def visible(item):
    return os.environ["CUDA_VISIBLE_DEVICES"]

def work(config):
    import torch.distributed as dist
    facts = {name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK", "NODE_RANK")}
    (run / f"rank-{dist.get_rank()}.json").write_text(json.dumps(facts | {"size": dist.get_world_size()}))

cluster._ray().init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
made = trainer.trainer(work, {}, "gpus", run, Place(workers=2), gpus=True)
print(made.backend_config.backend)
trainer.BACKENDS["GPU"] = "gloo"  # for there is no card behind these GPUs
with cluster.session(Place(workers=2, gpus="all")):
    print(*sorted(outcome.value for outcome in cluster.ray_map(visible, range(8), cpus=1, gpus=1)))
    cluster.fit(work, {}, "gpus", run, tick=lambda: None)
"""

ONE_GPU = """
import os, sys
from pathlib import Path
import psutil
from tasks import cluster, trainer
from tasks.place import Place

def process(item):
    return os.getpid()

def trained(config):
    assert not any(psutil.pid_exists(worker) for worker in config["workers"])

cluster._ray().init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
trainer.BACKENDS["GPU"] = "gloo"
with cluster.session(Place(workers=1, gpus="all")):
    first, second = ([one.value for one in cluster.ray_map(process, range(4), gpus=1)] for _ in range(2))
    print(len({*first, *second}))
    cluster.fit(trained, {"workers": [*first, *second]}, "gpu", Path(sys.argv[1]), tick=lambda: None)
"""


@pytest.mark.slow
def test_a_worker_of_the_only_gpu_of_a_machine_stays_until_a_training_wants_its_memory(tmp_path: Path) -> None:
    assert alone(ONE_GPU, tmp_path) == ["1"]


@pytest.mark.slow
def test_gpus_are_given_out_one_each_and_a_training_shares_those_of_a_machine(tmp_path: Path) -> None:
    """Of two that Ray is told of; nothing is computed on them."""
    backend, given = alone(LOGICAL_GPUS, tmp_path)
    assert backend == "nccl" and set(given.split()) == {"0", "1"}
    for rank in (0, 1):  # each takes its own by its local rank
        facts = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert facts == {"CUDA_VISIBLE_DEVICES": "0,1", "LOCAL_RANK": str(rank), "NODE_RANK": "0", "size": 2}

"""The only file that imports Ray: mapped work, one training on all workers, errors unwrapped.

The process that calls this is the Ray driver. Ray is started or joined on first use, in a thread, because `ray.init` in
the main thread would replace Prefect's signal handlers; leaving `session` takes all Ray work with it.
"""

import itertools
import os
import secrets
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fm.checkpoints import newest_name
from fm.errors import SettingsError, UserError, several
from fm.lineage import versions
from fm.mirror import LEAVE
from fm.runs import of
from tasks import losses
from tasks.answering import check_answers
from tasks.attending import attended
from tasks.door import SHUT_S, Door, settle, shut
from tasks.items import Outcome, Try, Word, dismiss, end, heard, telling
from tasks.losses import unwrapped
from tasks.nodes import Nodes
from tasks.overseeing import Overseer
from tasks.place import Place
from tasks.trainer import trainer
from tasks.worker import Member, Work, logs_of

RAY = {
    "RAY_AUTH_MODE": "token",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray would answer a signal with a stack of its own and end the process; here Prefect and the services answer it.
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
    # By default Ray's workers yield to everything else on the machine; a training that ends by time must not starve.
    "RAY_worker_niceness": "0",
    # A worker process takes seconds to import torch: one that is idle waits for the next stage, not one second.
    "RAY_idle_worker_killing_time_threshold_ms": "300000",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # the default of 2 s delays the end of each training
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "180",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # an actor more, to hand on what SIGTERM says
}
"""Ray's settings, unless the environment has others."""
ENDING_S = 60  # in which the process of an item that hangs is ended
CODE = [Path(__file__).parents[1] / name for name in ("fm", "tasks")]  # what runs in workers
# Ray's processes die with the thread that started them (Linux: PR_SET_PDEATHSIG), so that thread must live on.
_keeper = ThreadPoolExecutor(1, "ray")


@contextmanager
def session(place: Place, joined: Callable[[str], None] | None = None, asked_by: str = "") -> Iterator[None]:
    """Ray for the length of a block: started when first needed; leaving the block, even by a signal, ends its work.

    `joined` hears, in this thread, the address of Ray's dashboard, if it has one; that shows `asked_by`, an address.
    """
    global _place, _joined, _asked_by
    _place, _joined, _asked_by = place, joined, asked_by
    _door.open, leaving = True, False
    try:
        yield
    except Exception:
        raise
    except BaseException:  # a signal
        leaving = True
        raise
    finally:
        disconnect(leaving)


_door = Door()
_place = Place()
_resident: set[tuple[str, str, int]] = set()  # machine, host and process of workers that keep memory of a GPU
_joined: Callable[[str], None] | None = None
_asked_by = ""


def _ray() -> Any:
    """The ray module. It reads its settings at import, so the environment comes first: no port without a token."""
    for name, value in RAY.items():
        os.environ.setdefault(name, value)
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    return ray


def address() -> str:
    """Of the Ray that the session's place names; empty for the services' or this machine's."""
    return _place.address


def disconnect(leaving: bool) -> None:
    """Ends this process's work on Ray, and the Ray that it started; of a process that is leaving, soon in any case."""
    _resident.clear()
    _door.close()
    settle(_keeper)
    if "ray" in sys.modules and _ray().is_initialized():
        shut(_ray().shutdown, SHUT_S if leaving else None)


def _connect() -> Any:
    """The ray module, started or joined once.

    Raises: UserError if the cluster does not answer.
    """
    _door.check()
    started = _keeper.submit(_start)
    while wait([started], 0.5).not_done:
        continue  # short waits: a single long one would not hear a signal
    ray, dashboard = started.result()
    if dashboard and _joined:
        _joined(dashboard)
    return ray


def _start() -> tuple[Any, str]:
    """The ray module; the address of the dashboard of a Ray that has one, if this call joined it."""
    ray = _ray()
    if ray.is_initialized():
        return ray, ""
    address = _place.address or os.environ.get("RAY_ADDRESS") or "local"
    check_answers(address)
    if address == "auto":
        os.environ.pop("RAY_ADDRESS", None)  # which Ray would take in its stead
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "error"}
    if address == "local":
        options |= {"num_cpus": max(os.cpu_count() or 1, _place.workers), "include_dashboard": False}
    environment: dict[str, Any] = {"env_vars": variables} if (variables := _place.variables()) else {}
    if _place.address not in ("", "local"):  # its machines need the packages that this project depends on, no more
        environment |= {"py_modules": [str(path) for path in CODE], "excludes": ["__pycache__"]}
    options["runtime_env"] = environment
    if _asked_by:
        options["job_config"] = ray.job_config.JobConfig(metadata={"prefect_flow_run": _asked_by})
    try:
        context = ray.init(**options)
    except Exception as error:  # Ray raises bare ones too
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if address == "local":
            mend = "is the machine too busy or out of memory? what is done is kept, start again"
            raise UserError(f"Ray does not start ({reason})", address, mend) from error
        mend = "is it up (`fm status`), and is RAY_AUTH_TOKEN_PATH the cluster's token file?"
        raise UserError(f"no Ray cluster answers ({reason})", address, mend) from error
    return ray, f"http://{context.dashboard_url}" if context.dashboard_url else ""


def ray_map(
    fn: Callable[[Any], Any],
    items: Iterable[Any],
    cpus: float = 1,
    gpus: float = 0,
    retries: int = 2,
    lost: Callable[[Any, str], None] = lambda item, why: None,
    tell: Callable[[str], None] = lambda line: None,
    here: bool = False,
) -> Iterator[Outcome]:
    """`fn` over the items in Ray's slots; outcomes in the items' order, two items a slot under way, few more held.

    An item whose worker died, or was failed by its machine (MachineError, OSError, MemoryError), is tried again
    `retries` times, on another machine where there is one, and `lost(item, why)` hears of it. One that computes
    nothing any more after the place's `silent_s` is ended, and tried again once; one that no worker begins though a
    slot should be free is asked for again, its worker ended, as often as it takes. What else `fn` raises is the item's
    outcome. `tell` hears each line that a worker prints. `here`: on this machine alone, whose folders the others do
    not see.
    """
    ray, longest_s = _connect(), _place.silent_s

    def machines() -> list[dict[str, Any]]:
        this = ray.get_runtime_context().get_node_id()
        return [node for node in ray.nodes() if not here or node["NodeID"] == this]

    # A worker that used one GPU can use no other: where a machine has several it ends with its item, else it stays.
    stays = gpus > 0 and all(node["Resources"].get("GPU", 0) <= 1 for node in machines())
    # Ray's own retries would be silent, and may choose the same machine again.
    options = {"max_calls": int(gpus > 0 and not stays), "max_retries": 0, "num_returns": "streaming"}
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, **options)(telling(fn))
    nodes, waiting = Nodes(machines, cpus, gpus), enumerate(items)
    under_way: dict[Any, Try] = {}
    ended: dict[int, Outcome] = {}

    def submit(this: Try) -> None:
        node = nodes.choose(this.failed_on)
        stream = remote.options(scheduling_strategy=_on(node)).remote(this.item)
        under_way[stream] = Try(this.place, this.item, node, this.failed_on)

    for place in itertools.count():
        while place not in ended:
            with _door.asking():
                free = 2 * nodes.slots - len(under_way) if len(ended) < 8 * nodes.slots else 0
                for number, item in itertools.islice(waiting, free):
                    submit(Try(number, item))
                if not under_way:
                    return
                begun = Counter(this.node for this in under_way.values() if this.word)
                for stream, this in [*under_way.items()]:
                    if not this.word and begun[this.node] >= nodes.room.get(this.node, 1):
                        under_way[stream] = replace(this, since=time.monotonic())  # it waits for those
                    elif this.hangs(longest_s) and not this.told:
                        hung = _end(ray, stream, this)
                        under_way[stream] = replace(this, told=hung, since=this.since if hung else time.monotonic())
                    elif this.hangs(longest_s + ENDING_S):  # nothing is heard of its end, nor of it
                        ray.cancel(stream, force=True)
                for stream in _speaking(ray, under_way):
                    this = under_way.pop(stream)
                    said, failed = heard(ray, stream, this, longest_s)
                    if isinstance(said, Word):
                        if stays:
                            _resident.add((this.node, said.host, said.process))
                        since = this.since if this.word else time.monotonic()
                        under_way[stream] = replace(this, word=said, since=since)
                        for line in said.lines:
                            tell(f"{this.name}: {line}" if this.name else line)
                        continue
                    nodes.ended(this.node, bool(failed))
                    if said is None:
                        lost(this.item, failed)
                        submit(this)
                    elif failed and len(this.failed_on) < (min(retries, 1) if this.hangs(longest_s) else retries):
                        lost(this.item, failed)
                        submit(replace(this, failed_on=(*this.failed_on, this.node)))
                    else:
                        ended[this.place] = said
        yield ended.pop(place)


def gpus_each() -> float:
    """How many GPUs a piece of mapped work takes: one where the cluster has them and the place allows it.

    Raises: SettingsError if the place asks for GPUs and there is none.
    """
    there = _connect().cluster_resources().get("GPU", 0) >= 1
    if _place.gpus == "all" and not there:
        raise SettingsError("GPUs asked for, but the cluster has none", "place.gpus", "take CPUs (gpus: none)")
    return 1.0 if there and _place.gpus != "none" else 0.0


def _on(node: str) -> Any:
    """Ray's word for: on that machine, or elsewhere if it has gone."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=True) if node else "SPREAD"


def _end(ray: Any, stream: Any, this: Try) -> bool:
    """Kills the worker that an item hangs in, from a process beside it, for Ray's own way asks the worker itself;
    whether it hung, as far as its machine answers. Which worker has not begun, if any has the item, Ray alone knows."""
    if not this.word:
        ray.cancel(stream, force=True)
        return True
    try:
        return ray.get(_beside(ray, end, this.node, this.word.host, this.word.process), timeout=ENDING_S)
    except ray.exceptions.RayError:
        return True


def _beside(ray: Any, fn: Callable[[str, int], Any], node: str, host: str, process: int) -> Any:
    """What `fn` finds about a worker, from a process beside it."""
    return ray.remote(num_cpus=0, max_retries=0)(fn).options(scheduling_strategy=_on(node)).remote(host, process)


def _speaking(ray: Any, streams: Iterable[Any]) -> list[Any]:
    """Those whose workers say something now or within a moment; none too: a long wait would not hear a signal."""
    asked = list(streams)
    try:
        ray.wait(asked, timeout=0.5)
        return ray.wait(asked, num_returns=len(asked), timeout=0)[0]
    except SystemError as error:  # a signal was heard inside Ray's compiled code, which hides what the handler raised
        raise (error.__cause__ or error) from None


def fit(
    work: Callable[[dict[str, Any]], None],
    config: dict[str, Any],
    name: str,
    run: Path,
    tick: Callable[[], None],
    say: Callable[[str], None] = lambda line: None,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Runs `work(config)` on every worker of the place as one torch.distributed group, until all have returned.

    A lost worker restarts the group; `work` resumes from RUN's own checkpoints, the only authority. After a few losses
    without a new one (`tasks.trainer`) it is over. `tick` is called here every half second, `say` where this waits for
    slots or has lost workers, `tell` each line that they print, which RUN/logs/rank-N.log has. Before a signal ends
    this process, the file RUN/.ray/leave tells the workers, who save and leave.

    Raises: SettingsError if the cluster has fewer free slots than workers, or a node other versions than this process;
    a worker's own error, unwrapped; UserError if the workers are lost for good.
    """
    ray = _connect()
    place = _place
    gpus = _slots(ray, place, say)
    for worker in _resident:  # idle, they would keep memory of a GPU
        ray.wait([_beside(ray, dismiss, *worker)], timeout=ENDING_S)
    _resident.clear()
    config = config | {"gpus": gpus}  # a worker without one sees the machine's all the same
    scratch = (run / ".ray").resolve()

    overseer = Overseer(run, scratch, place.silent_s, say, tell)

    def look() -> None:
        tick()
        overseer.look()

    whole, leave = Work(work, _member, of(run), versions()), run / LEAVE
    while True:
        saved = newest_name(run)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            attended(lambda: trainer(whole, config, name, scratch, place, gpus).fit(), look, leave=leave.touch)
            return
        except Exception as error:
            own, lost = unwrapped(error), losses.lost(error)
            if lost is None:
                raise own from None if own is error else error
            said = str(lost).splitlines()[0] if str(lost) else ""
            what = f"the workers were lost ({type(lost).__name__}: {said})"
            if newest_name(run) <= saved:
                mend = "is the cluster up? start again, which goes on from the newest checkpoint"
                raise UserError(f"{what}, and not to be had again", str(logs_of(run)), mend) from error
            say(f"{what}; goes on from the newest checkpoint")
        finally:
            overseer.end()
            shutil.rmtree(scratch, ignore_errors=True)


def _member() -> Member:
    """Which worker of the training this process is, asked in it."""
    from ray.train import get_context
    from ray.util import get_node_ip_address

    return Member(get_context().get_world_rank(), get_context().get_world_size(), get_node_ip_address())


def _slots(ray: Any, place: Place, say: Callable[[str], None]) -> bool:
    """Waits until each worker has a free slot -> whether these are GPUs.

    Raises: SettingsError if the cluster has no such slots when the place's patience ends.
    """
    start, told = time.monotonic(), False
    while True:
        there, free = ray.cluster_resources(), ray.available_resources()
        # A cluster at an address may still be filling: where some of it are GPUs, the rest is waited for.
        enough = there.get("GPU", 0) >= (1 if place.address else place.fewest)
        gpus = place.gpus == "all" or (place.gpus == "auto" and enough)
        kind = "GPU" if gpus else "CPU"
        slots, open_slots = (int(min(has.get("CPU", 0), has.get(kind, 0))) for has in (there, free))  # a CPU each too
        if open_slots >= place.fewest:
            return gpus
        has = f"the cluster has {slots} {kind}s" + (f", {open_slots} of them free" if slots >= place.workers else "")
        grows = place.address or slots >= place.workers  # a Ray of this machine has all the slots that it will have
        if not grows or time.monotonic() - start > place.wait_s:
            most = min(slots, open_slots) if open_slots else slots
            mend = f"take {most} or fewer" if most else "take CPUs (gpus: none)" if gpus else "is a node up?"
            raise SettingsError(f"{several(place.workers, 'worker')} asked for, but {has}", "place.workers", mend)
        if not told:
            say(f"waits up to {place.wait_s:.0f} s for {place.workers} slots: {has}")
            told = True
        time.sleep(0.5)

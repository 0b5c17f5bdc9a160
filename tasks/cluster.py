"""The only file that imports Ray: where work runs (Place), mapped work, one training on all workers, errors unwrapped.

The process that calls this is the Ray driver. Ray is started or joined on first use, in a thread, because `ray.init` in
the main thread would replace Prefect's signal handlers; leaving `session` takes all Ray work with it.
"""

import itertools
import os
import secrets
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from fm import errors
from fm.errors import MachineError, SettingsError, UserError
from fm.files import read_json, write_json
from fm.settings import Settings

T = TypeVar("T")
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
LEAVE_S = 20.0  # Prefect kills a cancelled flow's process after 30 s
# Ray's processes die with the thread that started them (Linux: PR_SET_PDEATHSIG), so that thread must live on.
_keeper = ThreadPoolExecutor(1, "ray")


class Place(Settings):
    """Where a recipe runs; nothing here changes what is trained or measured beyond rounding."""

    address: str = Field(
        default="",
        title="Ray address",
        description="Address of a Ray cluster (host:port). Empty: the services' Ray, or one started on this machine.",
    )
    workers: int = Field(default=2, ge=1, le=4096, title="Workers", description="Training processes, 1 to 4096.")
    gpus: Literal["auto", "none"] = Field(
        default="auto",
        title="GPUs",
        description="auto: one GPU for each worker where the cluster has them; none: CPUs.",
    )
    cache: str = Field(
        default="",
        title="Cache folder",
        description="Of each machine, for shards from an address and PNG decoded once. Empty: as FM_CACHE says there.",
    )


@dataclass(frozen=True)
class Outcome:
    """What became of one item: its value, or the error that ended it after all retries."""

    item: Any
    value: Any = None
    error: Exception | None = None


@contextmanager
def session(place: Place) -> Iterator[None]:
    """Ray for the length of a block: started when first needed; leaving the block, even by a signal, ends its work."""
    global _place
    _place = place
    try:
        yield
    finally:
        disconnect()


_place = Place()


def _ray() -> Any:
    """The ray module. It reads its settings at import, so the environment comes first: no port without a token."""
    for name, value in RAY.items():
        os.environ.setdefault(name, value)
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    return ray


def disconnect() -> None:
    """Ends this process's work on Ray, and the Ray that it started."""
    if "ray" in sys.modules and _ray().is_initialized():
        _ray().shutdown()


def _connect() -> Any:
    """The ray module, started or joined once.

    Raises: UserError if the cluster does not answer.
    """
    started = _keeper.submit(_start)
    while wait([started], 0.5).not_done:
        continue  # short waits: a single long one would not hear a signal
    return started.result()


def _start() -> Any:
    ray = _ray()
    if ray.is_initialized():
        return ray
    address = _place.address or os.environ.get("RAY_ADDRESS") or "local"
    _check_answers(address)
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "error"}
    if address == "local":
        options |= {"num_cpus": max(os.cpu_count() or 1, _place.workers), "include_dashboard": False}
    if _place.cache:
        options["runtime_env"] = {"env_vars": {"FM_CACHE": _place.cache}}
    try:
        ray.init(**options)
    except Exception as error:  # Ray raises bare ones too
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if address == "local":
            mend = "is the machine too busy or out of memory? what is done is kept, start again"
            raise UserError(f"Ray does not start ({reason})", address, mend) from error
        mend = "is it up (`fm status`), and is RAY_AUTH_TOKEN_PATH the cluster's token file?"
        raise UserError(f"no Ray cluster answers ({reason})", address, mend) from error
    return ray


def _check_answers(address: str) -> None:
    """Raises: UserError if nothing listens at host:port; Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return  # "local" and "auto" are looked up by Ray
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise UserError(
            f"no Ray cluster answers ({error.strerror or error})", address, "is it up (`fm status`)?"
        ) from None


def attended(
    work: Callable[[], T],
    tick: Callable[[], None] = lambda: None,
    every_s: float = 0.5,
    leave: Callable[[], None] | None = None,
) -> T:
    """Runs `work` in a thread and `tick` here, so that the main thread hears signals while Ray works.

    A signal that ends this process (Prefect's cancel, SIGTERM, Ctrl-C) first calls `leave`, if given, and gives the
    work `LEAVE_S` to end in order.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while wait([future], every_s).not_done:  # not Thread.join: a signal there takes the thread for ended
            tick()
        tick()
    except Exception:
        raise
    except BaseException:
        if leave:
            leave()
            wait([future], LEAVE_S)
        raise
    return future.result()


def ray_map(
    fn: Callable[[Any], Any],
    items: Iterable[Any],
    cpus: float = 1,
    gpus: float = 0,
    retries: int = 2,
    lost: Callable[[Any, str], None] = lambda item, why: None,
) -> Iterator[Outcome]:
    """`fn` over the items in Ray's slots; outcomes in the items' order, two items a slot under way, few more held.

    An item whose worker died, or was failed by its machine (MachineError, OSError, MemoryError), is tried again
    `retries` times, on another machine where there is one, and `lost(item, why)` hears of it. What else `fn` raises is
    the item's outcome.
    """
    ray = _connect()
    # Ray's own retries would be silent, and may choose the same machine again.
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, scheduling_strategy="SPREAD")(fn)
    slots = max(1, int(ray.cluster_resources().get("CPU", 1) / max(cpus, 0.1)))
    waiting = enumerate(items)
    under_way: dict[Any, _Try] = {}
    ended: dict[int, Outcome] = {}
    for place in itertools.count():
        while place not in ended:
            free = 2 * slots - len(under_way) if len(ended) < 8 * slots else 0
            for number, item in itertools.islice(waiting, free):
                under_way[remote.remote(item)] = _Try(number, item)
            if not under_way:
                return
            for reference in _ready(ray, under_way):
                this = under_way.pop(reference)
                outcome, failed = _outcome(ray, reference, this)
                if failed and this.number <= retries:
                    lost(this.item, failed)
                    under_way[remote.remote(this.item)] = replace(this, number=this.number + 1)
                else:
                    ended[this.place] = outcome
        yield ended.pop(place)


@dataclass(frozen=True)
class _Try:
    """An item under way: its place among all, and which try this is."""

    place: int
    item: Any
    number: int = 1


def _ready(ray: Any, references: Iterable[Any]) -> list[Any]:
    """Those that have ended, one at least; in short waits, for a single long one would not hear a signal."""
    asked = list(references)
    while not ray.wait(asked, timeout=0.5)[0]:
        continue
    return ray.wait(asked, num_returns=len(asked), timeout=0)[0]


def _outcome(ray: Any, reference: Any, this: _Try) -> tuple[Outcome, str]:
    """What became of the try, and if it was the machine that failed it: how."""
    try:
        return Outcome(this.item, ray.get(reference)), ""
    except ray.exceptions.RayTaskError as error:  # that `fn` raised
        own = unwrapped(error)
        if not isinstance(own, MachineError | OSError | MemoryError):
            return Outcome(this.item, error=own), ""
        why = str(own) if isinstance(own, UserError) else f"{type(own).__name__}: {own}"
        return Outcome(this.item, error=own), why
    except ray.exceptions.OutOfMemoryError:
        failed = "its machine ran out of memory"
    except ray.exceptions.NodeDiedError:
        failed = "its machine went away"
    except ray.exceptions.RayError:
        failed = "its worker died"
    what, where = f"{failed}, {this.number} times in a row", getattr(this.item, "name", "")
    mend = "start again, which keeps what is done; a machine short of memory wants fewer slots"
    return Outcome(this.item, error=UserError(what, where, mend)), failed


def fit(
    work: Callable[[dict[str, Any]], None], config: dict[str, Any], name: str, run: Path, tick: Callable[[], None]
) -> None:
    """Runs `work(config)` on every worker of the place as one torch.distributed group, until all have returned.

    A lost worker restarts the group up to three times; `work` resumes from RUN's own checkpoints, the only authority.
    `tick` is called here every half second. Before a signal ends this process, the file `config["leave"]` tells the
    workers, who save and leave.

    Raises: SettingsError if the cluster has fewer slots than workers; a worker's own error, unwrapped.
    """
    ray = _connect()
    place = _place
    gpus = place.gpus == "auto" and ray.cluster_resources().get("GPU", 0) >= place.workers
    slots = int(ray.cluster_resources().get("GPU" if gpus else "CPU", 0))
    if slots < place.workers:
        raise SettingsError(
            f"{place.workers} workers asked for, but the cluster has {slots} CPUs",
            "place.workers",
            f"take {slots} or fewer",
        )
    scratch = (run / ".ray").resolve()
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)

    def look() -> None:
        tick()
        for file in scratch.glob("error-*.json"):  # no retry can mend what the user must
            told = read_json(file)
            raise getattr(errors, told.pop("kind"))(**told)

    leave = scratch / "leave"
    whole, config = _Work(work, scratch), config | {"leave": leave}
    try:
        attended(lambda: _trainer(whole, config, name, scratch, place, gpus).fit(), look, leave=leave.touch)
    except Exception as error:
        raise unwrapped(error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@dataclass(frozen=True)
class _Work:
    """The work of one worker; an error that the user must mend is left in the scratch folder for the driver to find."""

    work: Callable[[dict[str, Any]], None]
    scratch: Path

    def __call__(self, config: dict[str, Any]) -> None:
        try:
            self.work(config)
        except UserError as error:
            told = {"kind": type(error).__name__, "what": error.what, "where": error.where, "mend": error.mend}
            write_json(self.scratch / f"error-{os.getpid()}.json", told)
            raise


def _trainer(work: Any, config: dict[str, Any], name: str, scratch: Path, place: Place, gpus: bool) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    class Trainer(TorchTrainer):
        """Starts no actors for what is not used here: each costs five CPU seconds in which the workers wait."""

        def _create_default_callbacks(self) -> list[Any]:
            # No Ray Data comes in, and a placement group ends with this process's job anyway.
            unused = {"DatasetsCallback", "PlacementGroupCleanerCallback"}
            callbacks = super()._create_default_callbacks()  # type: ignore[misc]
            return [c for c in callbacks if type(c).__name__ not in unused]

    return Trainer(
        work,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=place.workers, use_gpu=gpus, resources_per_worker={"CPU": 1}),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        run_config=RunConfig(name=name, storage_path=str(scratch), failure_config=FailureConfig(max_failures=3)),
    )


def unwrapped(error: BaseException) -> Exception:
    """The error that a worker raised, out of Ray's wrappers; Ray's own if there is none inside."""
    failures = getattr(error, "worker_failures", None)  # Ray Train: rank -> its error
    if failures:
        known = [unwrapped(e) for e in failures.values()]
        return next((e for e in known if isinstance(e, UserError)), known[0])
    for inside in (getattr(error, "cause", None), error.__cause__):
        if isinstance(inside, BaseException) and inside is not error:
            return unwrapped(inside)
    return error if isinstance(error, Exception) else RuntimeError(repr(error))

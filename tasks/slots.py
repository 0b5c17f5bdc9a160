"""One at a time, whichever process asks: trainings on a set of GPUs, changes of a model's champion.

Each is a concurrency limit of Prefect's, on its page of such limits, where an operator may raise that of trainings. Its
slot is held on a lease that the holder renews: a process that dies lets go of it a minute later. Where Prefect is away,
a training goes on without; a champion stays.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import psutil
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.runtime import deployment

from fm.errors import UserError

LIMIT = "training"
LEASE_S = 60.0  # after which a dead holder's slot is free
TURN_S = 5.0  # between two looks, for so long a signal may wait


def name_for(address: str) -> str:
    """The limit of the GPUs at a Ray address, however it is written: `training` for the services' own, `training
    NUMBER:PORT` for others."""
    there, ours = (_resolved(one) for one in (address, os.environ.get("RAY_ADDRESS", "")))
    return LIMIT if address in ("", "auto", "local") or there == ours else f"{LIMIT} {there}".replace("/", "-")


def _resolved(address: str) -> str:
    """The address with its host as a number, this machine's as 127.0.0.1; as it is, where nobody knows that name."""
    host, _, port = address.rpartition(":")
    try:
        number = socket.gethostbyname(host)
    except OSError:
        return address
    own = {one.address for interface in psutil.net_if_addrs().values() for one in interface}
    return f"{'127.0.0.1' if number in own or number.startswith('127.') else number}:{port}"


def ensure(name: str) -> None:
    """The limit, of one slot, unless there is one: an operator's own number stays."""
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            made = GlobalConcurrencyLimitCreate(name=name, limit=1)
            try:
                client.create_global_concurrency_limit(made)
            except ObjectAlreadyExists:
                return  # somebody else, this very moment


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Holds the slot of this name during the block; waits up to two minutes for it.

    Raises: UserError if there is none in that time, or Prefect is away.
    """
    held, wait_s = ExitStack(), 2 * LEASE_S
    try:
        ensure(name)
        held.enter_context(
            concurrency(name, 1, wait_s, strict=True, lease_duration=LEASE_S, raise_on_lease_renewal_failure=False)
        )
    except Exception as error:
        why = f"Prefect gives no slot ({type(error).__name__})"
        raise UserError(why, name, "the same again when its server answers and nobody else holds it") from None
    try:
        yield
    finally:
        with suppress(Exception):  # what was done in the block stands, and the slot is free when its lease has run out
            held.close()


@contextmanager
def alone_on_gpus(address: str, say: Callable[[str], None]) -> Iterator[None]:
    """Waits for the slot of the GPUs at this address and holds it during the block; runs of deployments alone do."""
    if not deployment.id:
        yield
        return
    held = ExitStack()
    try:
        _take(held, name_for(address), say)
        yield
    finally:
        try:
            held.close()
        except Exception as error:
            say(f"Prefect did not take the slot back ({type(error).__name__}); it is free in {LEASE_S:.0f} s")


def _take(held: ExitStack, name: str, say: Callable[[str], None]) -> None:
    """In short turns, for a single long wait would not hear a signal."""
    told = False
    try:
        ensure(name)
        while True:
            slot = concurrency(
                name, timeout_seconds=TURN_S, lease_duration=LEASE_S, raise_on_lease_renewal_failure=False
            )
            try:
                held.enter_context(slot)
                return
            except TimeoutError:
                if not told:
                    say(f"waits for the slot {name!r}: another run trains there")
                    told = True
    except Exception as error:
        say(f"Prefect gives no slot {name!r} ({type(error).__name__}); goes on without")

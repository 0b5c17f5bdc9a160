"""What goes away by itself is tried again; what a user or our code has wrong is not."""

import errno
from typing import Any

import pytest
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from fm.errors import DataError, MachineError
from tasks.retrying import PATIENTLY, passes


def test_which_errors_pass() -> None:
    assert passes(MachineError("no disk")) and passes(ConnectionResetError()) and passes(TimeoutError())
    assert passes(OSError(errno.ESTALE, "stale file handle")) and passes(OSError(errno.EIO, "I/O"))
    wrong = (DataError("wrong"), FileNotFoundError(errno.ENOENT, ""), OSError(errno.ENOSPC, ""), ValueError(), None)
    assert not any(passes(error) for error in wrong)


def test_prefect_tries_again_what_may_pass_and_nothing_else(services: Any) -> None:
    tries: dict[str, int] = {}

    @task(cache_policy=NO_CACHE, **PATIENTLY | {"retry_delay_seconds": 0.1})
    def touch(storage: str, error: Exception, times: int) -> int:
        tries[storage] = tries.get(storage, 0) + 1
        if tries[storage] <= times:
            raise error
        return tries[storage]

    @flow
    def body() -> int:
        with pytest.raises(DataError):
            touch("user", DataError("wrong", "there"), 5)
        with pytest.raises(ConnectionError):
            touch("gone", ConnectionRefusedError(), 9)
        return touch("network", ConnectionResetError(), 2)

    assert body() == 3 and tries == {"user": 1, "gone": 4, "network": 3}

"""Which errors another try can mend, and how long to wait for it: storage and networks that go away for a moment."""

import errno
from typing import Any

from prefect.tasks import exponential_backoff

from fm.errors import MachineError, UserError

PASSING = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.EIO,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EPIPE,
    errno.ESTALE,
    errno.ETIMEDOUT,
}


def passes(error: BaseException | None) -> bool:
    """Whether an error may be gone in a moment; what a user or our code has wrong is not."""
    if isinstance(error, MachineError | ConnectionError | TimeoutError):
        return True
    return isinstance(error, OSError) and not isinstance(error, UserError) and error.errno in PASSING


def may_pass(task: Any, run: Any, state: Any) -> bool:
    """`passes`, as Prefect asks it of a task that failed."""
    return passes(state.result(raise_on_failure=False))


PATIENTLY: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=5),  # 5, 10, 20 s
    "retry_jitter_factor": 0.5,  # so that many that lost the same storage do not come back at once
    "retry_condition_fn": may_pass,
}
"""Options of a task that touches storage: what it has done is kept, so a try after it goes on."""

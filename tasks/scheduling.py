"""Schedules that were missed: of several runs that came due while nobody took them, one is run and the others say so.

A run that overlaps the last one is Prefect's affair: a deployment's `concurrency_limit` of 1 with `CANCEL_NEW` ends it
as Cancelled, "Deployment concurrency limit reached.".
"""

from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterStartTime,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.states import Cancelled, State

from tasks import watching

P = ParamSpec("P")
T = TypeVar("T")
SKIPPED = "Skipped"  # a Cancelled state of this name


def caught_up_once(body: Callable[P, T]) -> Callable[P, T | State[Any]]:
    """Around the body of a flow that is deployed with a schedule, outside of `failing.in_sentences`:

        @flow(name="retrain")
        @scheduling.caught_up_once
        @failing.in_sentences
        def retrain(...): ...

    A run of the schedule ends at once as Cancelled, named `Skipped`, with a sentence, if another of that schedule has
    begun since this one was due, and has not failed: that one has done, or is doing, what this one was to do. Whoever
    begins first of several that are late is the one that runs. Runs that somebody, or an event, started are never
    skipped; and if Prefect cannot be asked, the run goes on.
    """

    @wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> T | State[Any]:
        if why := overtaken():
            watching.say(why)
            return Cancelled(name=SKIPPED, message=why)
        return body(*args, **kwargs)

    return run


def overtaken() -> str:
    """Why this run has nothing left to do, in a sentence; nothing if it has, or was not started by a schedule."""
    context = FlowRunContext.get()
    own = context.flow_run if context else None
    if own is None or not own.auto_scheduled or own.deployment_id is None or own.expected_start_time is None:
        return ""
    try:
        since = _begun_since(own.deployment_id, own.expected_start_time)
    except Exception as error:  # whatever Prefect's client raises while its server is away
        watching.say(f"Prefect does not say whether this run was overtaken ({type(error).__name__}); going on")
        return ""
    first = before(since, own)
    if first is None or first.start_time is None:
        return ""
    due, begun = (_clock(time) for time in (own.expected_start_time, first.start_time))
    return f"skipped: this run was due at {due}, and {first.name!r} of the same schedule has begun since, at {begun}"


def before(since: list[FlowRun], own: FlowRun) -> FlowRun | None:
    """The run of the schedule that makes this one superfluous: one that began before it, and did not fail."""
    mine = next((run.start_time for run in since if run.id == own.id), None) or own.start_time
    for run in since:
        earlier = run.start_time is not None and (mine is None or (run.start_time, str(run.id)) < (mine, str(own.id)))
        stands = run.state_type not in (StateType.CRASHED, StateType.FAILED) and run.state_name != SKIPPED
        if run.id != own.id and earlier and run.auto_scheduled and stands:
            return run
    return None


def _begun_since(deployment: Any, due: datetime) -> list[FlowRun]:
    of = FlowRunFilterDeploymentId(any_=[deployment])
    wanted = FlowRunFilter(deployment_id=of, start_time=FlowRunFilterStartTime(after_=due, is_null_=False))
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.START_TIME_ASC, limit=200)


def _clock(time: datetime) -> str:
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"

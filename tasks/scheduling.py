"""Schedules: of several runs that came due while nobody took them one is run, and one that came due while another was
at work is not; those that are not run say so. What somebody, or an event, starts waits its turn and is run.
"""

from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterEndTime,
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

    A run of the schedule ends at once as Cancelled, named `Skipped`, with a sentence, if another of that deployment
    was at work when this one was due, or one of the schedule has begun since, and has not failed: that one has done,
    or is doing, what this one was to do. Whoever begins first of several that are late is the one that runs. Runs that
    somebody, or an event, started are never skipped; and if Prefect cannot be asked, the run goes on.
    """

    @wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> T | State[Any]:
        if why := overtaken():
            return skipped(why)
        return body(*args, **kwargs)

    return run


def skipped(why: str) -> State[Any]:
    """The state of a run that has nothing to do, for the reason given."""
    watching.say(why)
    return Cancelled(name=SKIPPED, message=why)


def overtaken() -> str:
    """Why this run has nothing left to do, in a sentence; nothing if it has, or was not started by a schedule."""
    context = FlowRunContext.get()
    own = context.flow_run if context else None
    if own is None or not own.auto_scheduled or own.deployment_id is None or own.expected_start_time is None:
        return ""
    try:
        since = _at_work_since(own.deployment_id, own.expected_start_time)
    except Exception as error:  # whatever Prefect's client raises while its server is away
        watching.say(f"Prefect does not say whether this run was overtaken ({type(error).__name__}); going on")
        return ""
    first = before(since, own)
    if first is None or first.start_time is None:
        return ""
    due, begun = (_clock(time) for time in (own.expected_start_time, first.start_time))
    how = "was at work then, since" if first.start_time <= own.expected_start_time else "has begun since, at"
    return f"skipped: this run was due at {due}, and {first.name!r} {how} {begun}"


def before(since: list[FlowRun], own: FlowRun) -> FlowRun | None:
    """The run that makes this one superfluous: one that began before it, and did not fail. Of those that began after
    this one was due, only runs of the schedule count."""
    mine = next((run.start_time for run in since if run.id == own.id), None) or own.start_time
    due = own.expected_start_time
    for run in since:
        begun = run.start_time
        if begun is None or run.id == own.id or (mine is not None and (begun, str(run.id)) > (mine, str(own.id))):
            continue
        stands = run.state_type not in (StateType.CRASHED, StateType.FAILED) and run.state_name != SKIPPED
        if stands and (run.auto_scheduled or (due is not None and begun <= due)):
            return run
    return None


def _at_work_since(deployment: Any, due: datetime) -> list[FlowRun]:
    """Runs that were at work at that time, or later, in the order in which they began."""
    of = FlowRunFilterDeploymentId(any_=[deployment])
    begun = FlowRunFilterStartTime(is_null_=False)
    # In this order, for one that ends between the two questions is then found twice, and else not at all.
    asked = {"end_time": FlowRunFilterEndTime(is_null_=True)}, {"end_time": FlowRunFilterEndTime(after_=due)}
    with get_client(sync_client=True) as client:
        found = {
            run.id: run
            for wanted in asked
            for run in client.read_flow_runs(
                flow_run_filter=FlowRunFilter(deployment_id=of, start_time=begun, **wanted),
                sort=FlowRunSort.START_TIME_DESC,
                limit=200,
            )
        }
    return sorted(found.values(), key=lambda run: (run.start_time or due, str(run.id)))


def _clock(time: datetime) -> str:
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"

"""What stands in Prefect beside the deployments, as data: automations, a webhook's block, the slot for trainings.

`flows/deploying.py` brings Prefect to this state: twice is as once. The webhook's address comes from the environment,
FM_NOTIFY_URL, and goes into a block alone, as a secret.
"""

from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from tasks import slots

VARIABLE = "FM_NOTIFY_URL"
BLOCK = "fm-notify"
LOST, FAILED = "fm: lost flow runs are marked Crashed", "fm: failures are told to a webhook"
NEVER_BEGUN = "fm: flow runs that never began are marked Crashed"
SILENT_S = 150  # five heartbeats, of 30 s each: a database that is away for a minute loses up to three
PENDING_S = 300  # from a worker's taking a run to its first line, on a busy machine
RUN = {"prefect.resource.id": "prefect.flow-run.*"}
OVER = ("Completed", "Failed", "TimedOut", "Cancelled", "Cancelling", "Crashed")
WAITING = ("Paused", "Suspended", "Scheduled", "AwaitingRetry", "AwaitingConcurrencySlot", "Pending", "Resuming")
SAID = {  # in the template language of Prefect, which pastes text as it is: `tojson` quotes it
    "text": "flow_run.name ~ ': ' ~ flow_run.state.name ~ '. ' ~ flow_run.state.message",
    "flow": "flow.name",
    "flow_run": "flow_run.name",
    "state": "flow_run.state.name",
    "message": "flow_run.state.message",
    "url": "flow_run|ui_url",
}
MESSAGE = "{" + ", ".join(f'"{key}": {{{{ ({what})|tojson }}}}' for key, what in SAID.items()) + "}"


def automations(webhook: UUID | None) -> list[AutomationCore]:
    """Every automation; the one that tells only where there is a webhook to tell."""
    never = ("Running", "heartbeat", *OVER, *(name for name in WAITING if name != "Pending"))
    return [
        _silent(LOST, "heartbeat", ("heartbeat", *OVER, *WAITING), SILENT_S),
        _silent(NEVER_BEGUN, "Pending", never, PENDING_S),
        *([_failed(webhook)] if webhook else []),
    ]


def _silent(name: str, after: str, expected: tuple[str, ...], within_s: int) -> AutomationCore:
    """A run of which none of these is heard after that neither lives nor ends nor waits: its process has died."""
    return AutomationCore(
        name=name,
        description=f"A run whose process has died says nothing more: {within_s} s after {after} it is marked Crashed.",
        trigger=EventTrigger(
            match=RUN,
            for_each={"prefect.resource.id"},
            after={f"prefect.flow-run.{after}"},
            expect={f"prefect.flow-run.{event}" for event in expected},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=within_s),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"No sign of life for {within_s} s: its process is gone. The same form again goes on.",
            )
        ],
    )


def _failed(webhook: UUID) -> AutomationCore:
    return AutomationCore(
        name=FAILED,
        description=f"Calls the webhook of the block {BLOCK}, which is {VARIABLE} as it was at `fm up`.",
        trigger=EventTrigger(
            match=RUN,
            expect={f"prefect.flow-run.{name}" for name in ("Failed", "Crashed", "TimedOut")},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[CallWebhook(block_document_id=webhook, payload=MESSAGE)],
    )


def deploy(url: str | None) -> list[str]:
    """Makes Prefect's state this one -> the names of its automations.

    No address (None): who is told stays as it is; an empty one: nobody is told any more, and the block goes.
    """
    slots.ensure(slots.LIMIT)
    webhook: Any = Webhook(url=url).save(BLOCK, overwrite=True) if url else None
    wanted = automations(webhook)
    with get_client(sync_client=True) as client:
        for one in wanted:
            _bring(client, one)
        if url == "":
            for there in client.read_automations_by_name(FAILED):
                client.delete_automation(there.id)
            _forget_block(client)
    return [one.name for one in wanted]


def _bring(client: SyncPrefectClient, wanted: AutomationCore) -> None:
    """The one automation of that name, as wanted; switched off stays off.

    One that is as wanted is left alone: with each update Prefect forgets which runs it waits for, those too whose
    processes died with the machine, before it started again.
    """
    there = client.read_automations_by_name(wanted.name)
    for double in there[1:]:
        client.delete_automation(double.id)
    if not there:
        client.create_automation(wanted)
        return
    wanted = wanted.model_copy(update={"enabled": there[0].enabled})
    if there[0].model_dump(include=set(AutomationCore.model_fields)) != wanted.model_dump():
        client.update_automation(there[0].id, wanted)


def _forget_block(client: SyncPrefectClient) -> None:
    try:
        client.delete_block_document(client.read_block_document_by_name(BLOCK, Webhook.get_block_type_slug()).id)
    except ObjectNotFound:
        return

"""What a person sees of a flow in Prefect: progress, tables, pictures, links.

Prefect's API may be away; nothing here can fail the work. Its pages take artifacts for Markdown with HTML in it: what
comes from data (names of classes, files, sources) is escaped here.
"""

import base64
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.exceptions import Pause
from prefect.logging.handlers import APILogWorker
from prefect.runtime import flow_run

from tasks.standing import Found, Stage


def say(line: str) -> None:
    """One line in the run's log: on the terminal and in Prefect."""
    get_run_logger().info(line)


def forward(line: str) -> None:
    """A worker's line in Prefect's log of the run, and not on the terminal: RUN/logs has it."""
    if flow_run.id:
        # A child of the one logger of Prefect's that hands on to its API alone.
        logging.getLogger("prefect.extra.workers").info("%s", line)


def shown(text: str) -> str:
    """Text as an artifact may hold it."""
    return escape(text, quote=False)


def found(stage: Stage, what: Found[Any]) -> None:
    """Whether a stage has something to do, and why."""
    say(f"{stage}: unchanged ({what.why})" if what.left is not None else f"{stage}: to do ({what.why})")


def flow_run_url() -> str:
    """Where this flow run is shown, or nothing outside of one."""
    return flow_run.ui_url or ""


class Suspension:
    """Whether somebody has suspended this flow run on its page: asked beside the work, of a server that may be away."""

    def __init__(self, every_s: float = 3.0) -> None:
        self._seen, self._over = threading.Event(), threading.Event()
        if flow_run.id:
            threading.Thread(target=self._ask, args=(UUID(flow_run.id), every_s), daemon=True).start()

    def __enter__(self) -> "Suspension":
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()

    def leave(self) -> None:
        """Raises: Prefect's `Pause`, with which the process ends and the run's state stays, once it was suspended."""
        if self._seen.is_set():
            raise Pause("suspended on its page")

    def _ask(self, run: UUID, every_s: float) -> None:
        while not self._over.wait(every_s):
            with suppress(Exception), get_client(sync_client=True) as client:
                state = client.read_flow_run(run).state
                if state and state.is_paused():
                    return self._seen.set()


class Progress:
    """Progress of a long piece of work: a bar in Prefect and a log line, at most every few seconds."""

    def __init__(self, key: str, what: str, every_s: float = 5.0) -> None:
        self.what, self.every_s, self.last = what, every_s, time.monotonic()
        self.artifact = _safely(create_progress_artifact, progress=0.0, key=key, description=shown(what))

    def update(self, done: float, line: str, now: bool = False) -> None:
        """`done` in [0, 1]; the line is said unless one was said a moment ago, the last one always."""
        if not now and done < 1 and time.monotonic() - self.last < self.every_s:
            return
        self.last = time.monotonic()
        say(f"{self.what}: {line}")
        if self.artifact:
            percent = round(100 * min(done, 1.0), 1)
            _safely(update_progress_artifact, self.artifact, progress=percent, description=shown(line))


def link(key: str, url: str, text: str) -> None:
    if url:
        _safely(create_link_artifact, link=url, link_text=shown(text), key=key)


def ray(dashboard: str) -> None:
    """Where Ray shows the work of this run."""
    link("ray", dashboard, "Ray dashboard")


def table(key: str, lines: Sequence[Sequence[str]], description: str) -> None:
    """A table artifact from lines of text, the first of which is the heading."""
    head, *body = [[shown(cell) for cell in line] for line in lines]
    names = [f"{name} " * (1 + head[:i].count(name)) for i, name in enumerate(head)]  # a heading may occur twice
    rows = [dict(zip(names, cells, strict=True)) for cells in body]
    _safely(create_table_artifact, table=rows, key=key, description=shown(description))


def markdown(key: str, text: str, description: str) -> None:
    """Markdown without HTML: what looks like some is shown as it is written."""
    _safely(create_markdown_artifact, markdown=shown(text), key=key, description=shown(description))


def picture(key: str, png: Path, caption: str) -> None:
    """A picture artifact; Prefect's image artifact needs a public address, markdown takes the bytes."""
    data, caption = base64.b64encode(png.read_bytes()).decode(), shown(caption)
    _safely(create_markdown_artifact, markdown=f"![{key}](data:image/png;base64,{data})\n\n{caption}", key=key)


def event(name: str, resource: str, facts: dict[str, Any], **labels: str) -> None:
    """Something that an automation can wait for, by the event's name, the resource's id or its labels (`fm.NAME`)."""
    told = {f"fm.{label}": value for label, value in labels.items()}
    _safely(emit_event, name, resource={"prefect.resource.id": resource, **told}, payload=facts)


def _safely(call: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return call(*args, **kwargs)
    except Exception as error:  # whatever Prefect's client raises while its server is away
        get_run_logger().warning(
            f"Prefect did not take {kwargs.get('key', 'an update')} ({type(error).__name__}); going on"
        )
        return None


def flush() -> None:
    """Waits until Prefect has what was said: to be called before its server is stopped."""
    APILogWorker.drain_all(timeout=10)
    EventsWorker.drain_all(timeout=10)

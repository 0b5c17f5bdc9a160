"""Flows of seconds, for tests of what stands around flows: schedules, slots, heartbeats."""

import time
from pathlib import Path

from prefect import flow, task

from tasks import scheduling, slots, watching


@flow(name="tick", flow_run_name="tick of {name}")
@scheduling.caught_up_once
def tick(name: str = "", until: str = "") -> None:
    """What a schedule starts; it lasts until there is a file of that name, if it is given one."""
    while until and not Path(until).exists():
        time.sleep(0.1)


@flow(name="hold")
def hold(note: str, until: str) -> None:
    """Holds the slot of the GPUs until there is a file of that name, and notes when."""
    with slots.alone_on_gpus("", watching.say):
        Path(f"{note}.begun").write_text(f"{time.time()}")
        while not Path(until).exists():
            time.sleep(0.1)
        Path(f"{note}.ended").write_text(f"{time.time()}")


@task
def wait(until: str) -> None:
    while not Path(until).exists():
        time.sleep(0.1)


@flow(name="two-tasks")
def two_tasks(folder: str) -> None:
    """Each lasts until there is a file of its name in the folder."""
    Path(folder, "begun").touch()
    for name in ("first", "second"):
        wait.with_options(name=name, task_run_name=name)(str(Path(folder, name)))

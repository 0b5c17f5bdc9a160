"""Flows of seconds, for tests of what stands around flows: schedules, slots, heartbeats."""

import time
from pathlib import Path

from prefect import flow

from tasks import scheduling, slots, watching


@flow(name="tick", flow_run_name="tick {seconds} s")
@scheduling.caught_up_once
def tick(seconds: float = 1.0) -> None:
    """What a schedule starts."""
    time.sleep(seconds)


@flow(name="hold")
def hold(seconds: float, note: str = "") -> None:
    """Holds the slot of the GPUs, and notes when."""
    with slots.alone_on_gpus("", watching.say):
        begun = time.time()
        if note:
            Path(f"{note}.begun").write_text(f"{begun}")
        for _ in range(int(10 * seconds)):
            time.sleep(0.1)  # a signal is heard
        if note:
            Path(f"{note}.ended").write_text(f"{time.time()}")

"""Prefect's server over SQLite, asked by several at once."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from infra.services import ask


def test_runs_submitted_at_once_are_all_taken(services: Any) -> None:
    flow = ask(f"{services.prefect_api}/flows/", {"name": "submitted-at-once"})["id"]
    body = {"flow_id": flow, "state": {"type": "COMPLETED"}}

    def submit(_: int) -> str:
        return ask(f"{services.prefect_api}/flow_runs/", body, timeout_s=60)["id"]

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(submit, range(24)))) == 24

"""Prefect's server over SQLite, asked by several at once; what it makes of a database away: test_postgresql.py too."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.request import urlopen

from infra.services import ask


def test_runs_submitted_at_once_are_all_taken(services: Any) -> None:
    flow = ask(f"{services.prefect_api}/flows/", {"name": "submitted-at-once"})["id"]
    body = {"flow_id": flow, "state": {"type": "COMPLETED"}}

    def submit(_: int) -> str:
        return ask(f"{services.prefect_api}/flow_runs/", body, timeout_s=60)["id"]

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(submit, range(24)))) == 24


def test_pages_alone_are_told_to_ask_this_server_alone(services: Any) -> None:
    site = services.prefect_api.removesuffix("/api")
    api = site.removeprefix("http://")
    for path, told in {"/": f"connect-src 'self' http://{api} ws://{api}", "/api/health": None}.items():
        with urlopen(site + path, timeout=60) as answer:
            assert answer.headers["content-security-policy"] == told


def test_a_database_that_refuses_connections_is_waited_for() -> None:
    """That Prefect looks its rules up where they were changed: 503 for whoever asks, and task runs that are kept."""
    from prefect.server.api import server
    from prefect.server.services.task_run_recorder import TaskRunRecorder

    from infra import prefect_app

    assert server.is_client_retryable_exception(ConnectionRefusedError())
    assert not server.is_client_retryable_exception(ValueError())
    assert TaskRunRecorder().start.keywords == {"max_persist_retries": prefect_app.KEPT}  # type: ignore[attr-defined]

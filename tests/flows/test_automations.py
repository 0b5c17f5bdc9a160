"""What `fm up` leaves in Prefect beside the deployments, and that it works: once each, secret where it must be."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows import automations
from infra import local
from infra.services import Services, ask
from infra.state import Record
from tests.deploying import deploy, start

NAMES = (automations.LOST, automations.NEVER_BEGUN, automations.FAILED)


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a server that keeps what it is told, and that."""
    told: list[dict[str, Any]] = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Says nothing."""

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/planted-secret", told
    finally:
        server.shutdown()


def there(api: str) -> dict[str, list[dict[str, Any]]]:
    """Prefect's automations of ours by name."""
    found = ask(f"{api}/automations/filter", body={})
    return {name: [a for a in found if a["name"] == name] for name in NAMES}


@pytest.mark.timeout(600)
def test_each_stands_once_after_two_calls_and_a_failure_is_told_without_showing_the_address(
    services: Services, deployed: Any
) -> None:
    api = deployed.api
    with webhook() as (url, told):
        for _ in range(2):
            assert automations.deploy(url) == [*NAMES]
        assert automations.deploy(None) == [*NAMES[:2]]  # of a shell that does not know it
        assert [len(found) for found in there(api).values()] == [1, 1, 1]
        limit = ask(f"{api}/v2/concurrency_limits/training")
        assert (limit["limit"], limit["active"]) == (1, True)
        run = deployed.start("evaluate", {"run": "runs/none"})
        ended = deployed.wait(run)
        assert ended["state"]["type"] == "FAILED" and "evaluate" in ended["tags"]
        deadline = time.monotonic() + 60
        while not any(run in one["url"] for one in told):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        (one,) = (one for one in told if run in one["url"])
        assert one["message"] == ended["state"]["message"] and "no such" in one["message"], one
        assert (one["flow"], one["state"]) == ("evaluate", "Failed")
        shown = [
            ask(f"{api}/{kind}/filter", body={}) for kind in ("automations", "block_documents", "logs", "artifacts")
        ]
        assert "planted-secret" not in json.dumps(shown)
        assert not [f for f in services.state.rglob("*") if f.is_file() and b"planted-secret" in f.read_bytes()]
    assert automations.deploy("") == [*NAMES[:2]]
    assert [len(found) for found in there(api).values()] == [1, 1, 0]
    assert automations.BLOCK not in [block["name"] for block in ask(f"{api}/block_documents/filter", body={})]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_whose_processes_are_gone_is_marked_crashed(services: Services, deployed: Any, tmp_path: Path) -> None:
    """Prefect's too, as after a power cut; `fm up` then deploys again."""
    automations.deploy("")
    name = start(deployed, deploy(deployed, "hold", "lost"), note=str(tmp_path / "lost"), until=str(tmp_path / "never"))
    deadline = time.monotonic() + 120
    while ask(f"{deployed.api}/flow_runs/{name}")["state"]["type"] != "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    time.sleep(10)  # its first heartbeat
    worker = Record.load(services.state).processes["worker"].process()
    assert worker is not None
    server = Record.load(services.state).processes["prefect"].process()
    assert server is not None
    killed = [*worker.children(recursive=True), worker, server]
    for process in killed:
        process.kill()
    psutil.wait_procs(killed, timeout=10)
    killed_at = time.monotonic()
    try:
        local.up(services.state, workers=False, ray=False)
        automations.deploy("")
        ended = deployed.wait(name, limit_s=300)
    finally:
        local.up(services.state)  # with a new worker
    assert (
        ended["state"]["type"] == "CRASHED"
        and f"No sign of life for {automations.SILENT_S} s" in ended["state"]["message"]
    )
    assert time.monotonic() - killed_at > 60


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_that_never_begins_is_marked_crashed(deployed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker took it and died with its process: nobody is at work, and no heartbeat was ever sent."""
    monkeypatch.setattr(automations, "PENDING_S", 20)
    automations.deploy(None)
    try:
        flow = ask(f"{deployed.api}/flows/", body={"name": "never-begun"})["id"]
        run = ask(f"{deployed.api}/flow_runs/", body={"flow_id": flow, "state": {"type": "PENDING"}})["id"]
        ended = deployed.wait(run, limit_s=120)
    finally:
        monkeypatch.undo()
        automations.deploy(None)
    assert ended["state"]["type"] == "CRASHED" and "No sign of life for 20 s" in ended["state"]["message"]

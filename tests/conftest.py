"""The real Prefect, MLflow and Ray of a test run, started when the first test asks for them; a browser; and a finished
run of preset tiny, made from this project as deployed from a second folder.

Their addresses stand in the environment from the start, for Prefect reads its settings when it is first imported; no
test can then reach the services that a developer has running.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from infra import local, processes
from infra.services import Services, ask
from infra.state import Ports

hypothesis.settings.register_profile("here", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("here")

ROOT = Path(__file__).parent.parent
CHROMIUM = Path("/usr/bin/chromium")
STATE = Path(tempfile.mkdtemp(prefix="fm-tests-")).resolve()


def free_ports() -> Ports:
    """Five free ports in a row."""
    while True:
        base = random.randrange(20000, 32000, 5)
        if not any(processes.port_in_use(port) for port in range(base, base + 5)):
            return Ports.from_base(base)


PORTS = free_ports()
os.environ.update(Services.at(STATE, PORTS).environment() | {"FM_CACHE": str(STATE / "cache")})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need the services or a browser are marked by their fixtures and come last, the form first."""
    for item in items:
        for name in ("services", "browser"):
            if name in getattr(item, "fixturenames", ()):
                item.add_marker(name)
    # The run that the others look at shall be the one that was started from the form.
    items.sort(key=lambda item: (item.get_closest_marker("services") is not None, item.path.name != "test_form.py"))


def pytest_unconfigure() -> None:
    shutil.rmtree(STATE, ignore_errors=True)


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """Prefect with a worker, MLflow, a Ray head and their supervisor, in the environment; at the end none is left."""
    found = local.up(STATE, PORTS)
    yield found
    started = processes.belonging(STATE, marked=True)
    ports = [c.laddr.port for p in started for c in p.net_connections("tcp") if c.status == "LISTEN"]
    assert local.down(STATE) == ["supervisor", "worker", "ray", "mlflow", "prefect"]
    assert len(ports) > 5
    assert [port for port in ports if processes.port_in_use(port)] == []
    assert [process for process in started if processes.alive(process)] == []
    deadline = time.monotonic() + 20  # what a cancelled flow started last may take a moment to see that it is over
    while (left := processes.belonging(STATE, marked=True)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert [process.cmdline() for process in left] == []


@pytest.fixture
def browser() -> Iterator[Any]:
    """Headless Chromium. For one test at a time: while Playwright runs, asyncio.run is refused in this thread."""
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM} on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@dataclass(frozen=True)
class Deployed:
    """A copy of this project, and its deployments by name."""

    folder: Path
    deployments: dict[str, Any]
    api: str

    def start(self, name: str, parameters: dict[str, Any] | None = None) -> str:
        body = {"parameters": parameters or {}, "state": {"type": "SCHEDULED"}}
        return ask(f"{self.api}/deployments/{self.deployments[name]['id']}/create_flow_run", body=body)["id"]

    def newest(self, name: str) -> str:
        query = {"deployments": {"id": {"any_": [self.deployments[name]["id"]]}}, "sort": "EXPECTED_START_TIME_DESC"}
        return ask(f"{self.api}/flow_runs/filter", body=query | {"limit": 1})[0]["id"]

    def wait(self, flow_run: str, limit_s: float = 300) -> dict[str, Any]:
        """The flow run when it has ended."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            run = ask(f"{self.api}/flow_runs/{flow_run}")
            if run["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return run
            time.sleep(0.5)
        raise AssertionError(f"no end after {limit_s:.0f} s: {json.dumps(run['state'])}")


@pytest.fixture(scope="session")
def deployed(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """This project's files in another folder, deployed from there."""
    folder = tmp_path_factory.mktemp("second") / "clone"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(lambda name: (ROOT / name).exists(), listed.stdout.splitlines()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    there = {d["name"]: d for d in ask(f"{services.prefect_api}/deployments/filter", body={})}
    return Deployed(folder, there, services.prefect_api)


@pytest.fixture(scope="session")
def finished(deployed: Deployed) -> Path:
    """RUN of preset tiny: from the form where a browser is there (test_form comes first), else started by the API."""
    run = deployed.folder / "runs" / "tiny"
    if not (run / "report.html").exists():
        ended = deployed.wait(deployed.start("pipeline-tiny"))
        assert ended["state"]["type"] == "COMPLETED", ended["state"]
    return run


def fm(*arguments: str, cwd: Path, limit_s: float = 240) -> subprocess.CompletedProcess[str]:
    """The command line as a user calls it; the services of this test run are in the environment."""
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=limit_s)


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    return fm


@pytest.fixture(scope="session")
def s3() -> Iterator[Any]:
    """An S3-compatible server with an empty bucket: its file system; `s3://bucket/...` leads there while it runs."""
    from tests.fm.data.serving import moto

    with moto() as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", address)
        for name, value in (("ACCESS_KEY_ID", "any"), ("SECRET_ACCESS_KEY", "any"), ("DEFAULT_REGION", "us-east-1")):
            patch.setenv(f"AWS_{name}", value)
        import s3fs

        fs = s3fs.S3FileSystem()
        fs.mkdir("bucket")
        yield fs

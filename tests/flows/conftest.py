"""This project deployed from a second folder, and one finished run of preset tiny there, for all tests of flows and tasks."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infra.services import Services, ask

ROOT = Path(__file__).parent.parent.parent


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
    command = [sys.executable, "-m", "flows.cli_main", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=limit_s)

"""The services on an address that others reach: strangers are refused, ours are known, and no secret is left anywhere.

All of it is real: the set of `fm up --host`, a flow run of its worker on its Ray, our copy in MLflow, strangers.
"""

import base64
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra import access, processes
from infra.services import ask
from infra.state import Ports

ROOT = Path(__file__).parents[2]
BLOCK = """
import sys
from pathlib import Path
from prefect import flow, get_run_logger
from prefect.blocks.system import Secret
from fm.recipe import Recipe
from tasks.tracking import Tracking

@flow
def reads():
    block = Secret.load("planted")
    get_run_logger().info("a block, printed: %s", block)
    copy = Tracking(Path(sys.argv[1]), Recipe.load("tiny"), {"length": len(block.get()), "block": block})
    copy.open()
    assert copy.url and not copy.away

Secret(value=sys.stdin.read()).save("planted", overwrite=True)
reads()
"""


@pytest.fixture
def host() -> str:
    try:
        return access.reached_at("0.0.0.0")
    except Exception as error:
        pytest.skip(str(error))


@pytest.fixture
def planted() -> dict[str, str]:
    return {name: f"planted-{name}-{secrets.token_hex(12)}" for name in ("prefect", "mlflow", "key", "block", "aws")}


@pytest.fixture
def given(tmp_path: Path, host: str, planted: dict[str, str]) -> dict[str, str]:
    """An environment with all logins; the files as infra/README.md has them made."""
    token, config = tmp_path / "ray-token", tmp_path / "mlflow-auth.ini"
    token.write_text(secrets.token_hex(32))
    shipped = (ROOT / "infra" / "mlflow-auth.ini").read_text()
    config.write_text(shipped.replace("sqlite:////logins", f"sqlite:///{tmp_path}"))
    for file in (token, config):
        file.chmod(0o600)
    return {
        "PREFECT_SERVER_API_AUTH_STRING": f"fm:{planted['prefect']}",
        "PREFECT_API_AUTH_STRING": f"fm:{planted['prefect']}",
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_PASSWORD": planted["mlflow"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": planted["key"],
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": planted["mlflow"],
        "MLFLOW_SERVER_ALLOWED_HOSTS": host,
        "RAY_AUTH_TOKEN_PATH": str(token),
        "AWS_ACCESS_KEY_ID": "of-the-storage",
        "AWS_SECRET_ACCESS_KEY": planted["aws"],
    }


@pytest.fixture
def ports() -> Ports:
    base = 22000 + os.getpid() % 400 * 5
    while any(processes.port_in_use(port) for port in range(base, base + 5)):
        base += 5
    return Ports.from_base(base)


def status_of(url: str, headers: dict[str, str] | None = None, body: Any = None) -> int:
    try:
        ask(url, body=body, headers=headers, timeout_s=60)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def test_without_them_nothing_starts(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("FM_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    for option, variable in (["--host", "0.0.0.0"], ""), ([], host):
        monkeypatch.setenv("FM_HOST", variable)
        done = command("up", *option, cwd=tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert done.stderr.startswith(f"error: --host {variable or '0.0.0.0'}: lets others reach the services, but\n")
        for name in ("PREFECT_API_AUTH_STRING", "MLFLOW_AUTH_CONFIG_PATH", "RAY_AUTH_TOKEN_PATH"):
            assert name in done.stderr
    assert processes.belonging(tmp_path / "state", marked=True) == []
    assert not (tmp_path / "state" / "logs").exists()


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_an_open_address_asks_everybody_and_keeps_no_secret(
    given: dict[str, str],
    planted: dict[str, str],
    host: str,
    ports: Ports,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., Any],
) -> None:
    state, run = tmp_path / "state", tmp_path / "runs" / "tiny"
    strangers = {name: value for name, value in os.environ.items() if name not in given}
    for name, value in (given | {"FM_STATE": str(state)}).items():
        monkeypatch.setenv(name, value)
    prefect, mlflow = f"http://{host}:{ports.prefect}/api", f"http://{host}:{ports.mlflow}"
    search = f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    try:
        up = command("up", "--host", host, "--port-base", str(ports.prefect), cwd=ROOT, limit_s=1500)
        assert up.returncode == 0, up.stderr
        assert up.stdout.count(" healthy ") == 5 and f"http://{host}:{ports.prefect}" in up.stdout

        assert status_of(f"{prefect}/flows/filter", body={}) == status_of(search) == 401
        wrong = {"Authorization": f"Basic {base64.b64encode(b'admin:password1234').decode()}"}
        assert status_of(f"{prefect}/flows/filter", wrong, {}) == status_of(search, wrong) == 401
        assert status_of(f"{prefect}/flows/filter", access.prefect_login(), {}) == 200
        assert status_of(search, access.mlflow_login()) == 200
        assert status_of(f"http://{host}:{ports.dashboard}/nodes?view=summary") == 401
        assert refused_at(f"http://127.0.0.1:{ports.prefect}/api/health"), "it listens where it was told to"

        shell = {**strangers, "FM_STATE": str(state)}  # of the same user, who has not set the logins there
        told = fm(shell, "status")
        assert "NOT HEALTHY wants another login than this shell's" in told.stdout
        refused = fm(shell, "pipeline", "photos:", str(run), "--preset", "tiny", "--port-base", str(ports.prefect))
        assert refused.returncode == 2 and "asks for another login than this shell has" in refused.stderr
        again = fm(shell | given, "up", "--host", "0.0.0.0")
        assert again.returncode == 2 and f"the services run already, on {host}; `fm down` first" in again.stderr

        ended = run_by_the_worker(prefect, "pipeline-tiny", {"source": "photos:", "run": str(run)})
        assert ended["type"] == "COMPLETED", ended
        assert (run / "report.html").exists()

        ours = {"PREFECT_API_URL": prefect, "MLFLOW_TRACKING_URI": mlflow, "PREFECT_HOME": str(state / "prefect")}
        other = run.with_name("block")
        other.mkdir()
        script = [sys.executable, "-c", BLOCK, str(other)]
        read = subprocess.run(
            script, env=os.environ | ours, cwd=ROOT, input=planted["block"], capture_output=True, text=True
        )
        assert read.returncode == 0, read.stderr
        logged = ask(f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=10", headers=access.mlflow_login())
        assert "flow-matching" in {one["name"] for one in logged["experiments"]}
        assert "a block, printed" in read.stderr and planted["block"] not in read.stdout + read.stderr
        for name in ("prefect", "mlflow", "ray", "worker", "supervisor"):
            assert not said(command("logs", name, "--lines", "1000", cwd=ROOT).stdout.encode(), planted)
    finally:
        down = command("down", cwd=ROOT)
    assert down.returncode == 0
    assert processes.belonging(state, marked=True) == []
    token = Path(given["RAY_AUTH_TOKEN_PATH"]).read_text()
    everywhere = [path for folder in (state, run.parent) for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in everywhere} >= {
        "prefect.db",
        "mlflow.db",
        "manifest.json",
        "worker.log",
        "report.html",
    }
    assert [path for path in everywhere if said(path.read_bytes(), planted)] == []
    assert [path.name for path in everywhere if token.encode() in path.read_bytes()] == ["ray-token"]
    private = [state / "ray-token", tmp_path / "mlflow-logins.db"]
    assert [path.stat().st_mode & 0o777 for path in private] == [0o600, 0o600]


def fm(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


def refused_at(url: str) -> bool:
    try:
        ask(url)
    except urllib.error.HTTPError:
        return False
    except OSError:
        return True
    return False


def run_by_the_worker(api: str, name: str, parameters: dict[str, str]) -> dict[str, Any]:
    """The final state of a run of a deployment that the set's worker took."""
    login = access.prefect_login()
    named = {"deployments": {"name": {"any_": [name]}}}
    deployment = ask(f"{api}/deployments/filter", named, login, 60)[0]["id"]
    body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    flow_run = ask(f"{api}/deployments/{deployment}/create_flow_run", body, login, 60)["id"]
    deadline = time.monotonic() + 1500
    while True:
        state = ask(f"{api}/flow_runs/{flow_run}", headers=login, timeout_s=60)["state"]
        if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return state
        assert time.monotonic() < deadline, json.dumps(state)
        time.sleep(2)


def said(text: bytes, planted: dict[str, str]) -> list[str]:
    """Which of the secrets stand in a text, as they are or as logins are sent."""
    sent = {name: base64.b64encode(f"fm:{value}".encode()) for name, value in planted.items()}
    admin = {name: base64.b64encode(f"admin:{value}".encode()) for name, value in planted.items()}
    forms = ((name, form) for name, value in planted.items() for form in (value.encode(), sent[name], admin[name]))
    return sorted({name for name, form in forms if form in text})

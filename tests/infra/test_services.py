"""The real services of this test run, and what a client sees of them."""

import os
import re
import signal
import stat
import subprocess
import sys
import time
import urllib.error
from pathlib import Path

import pytest

from infra import local
from infra.services import POOL, Services, ask
from infra.state import Ports

DRIVER = """
import os, ray
ray.init(os.environ["RAY_ADDRESS"], logging_level="error")
print(ray.get(ray.remote(lambda: 7).remote()))
"""
ROOT = Path(__file__).parents[2]
OURS = re.compile(r"\bFM_[A-Z]+(?:_[A-Z]+)*\b")
HEAVY = {"torch", "prefect", "mlflow", "ray", "psutil", "pydantic"}


def test_the_environment_says_it_all(tmp_path):
    for ray, address in ((True, "127.0.0.1:20002"), (False, "local")):
        said = Services.at(tmp_path, Ports.from_base(20000), ray).environment()
        assert said["PREFECT_API_URL"] == "http://127.0.0.1:20000/api"
        assert said["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:20001"
        assert (said["RAY_ADDRESS"], said["RAY_AUTH_MODE"]) == (address, "token")
        assert said["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "ray-token")


def test_every_variable_of_ours_stands_in_the_table():
    code = [f for room in ("fm", "tasks", "flows", "infra", "tests/benchmarks") for f in (ROOT / room).rglob("*.*")]
    ours = {name for file in code if file.suffix in (".py", ".yaml") for name in OURS.findall(file.read_text())}
    table = set(OURS.findall((ROOT / "infra" / "README.md").read_text().partition("## Variables")[2]))
    assert {"FM_STATE", "FM_HOST"} <= table and ours - table == set()


def test_importing_infra_loads_nothing_heavy():
    code = f"import sys, infra.local; print(*{HEAVY} & set(sys.modules))"
    assert subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True).stdout == "\n"


def test_all_are_healthy_and_joined_by_a_second_up(services):
    before = local.status(services.state)
    assert [one.name for one in before if one.healthy] == ["prefect", "mlflow", "ray", "worker", "supervisor"]
    assert local.up(services.state) == services
    assert [one.pid for one in local.status(services.state)] == [one.pid for one in before]


def test_state_is_where_the_design_says(services):
    for name in ("prefect/prefect.db", "mlflow/mlflow.db", "ray/session_latest", "logs/ray.log"):
        assert (services.state / name).exists()
    assert stat.S_IMODE(services.ray_token_path.stat().st_mode) == 0o600


def test_a_run_logged_through_the_server_leaves_its_artifact_in_the_state_folder(services, tmp_path):
    picture = tmp_path / "picture.txt"
    picture.write_text("pixels")
    from mlflow import MlflowClient

    client = MlflowClient()
    run = client.create_run(client.create_experiment("artifact-guard"))
    client.log_artifact(run.info.run_id, str(picture))
    client.set_terminated(run.info.run_id)
    stored = list((services.state / "mlflow" / "artifacts").rglob("picture.txt"))
    assert [path.read_text() for path in stored] == ["pixels"]


def test_a_ray_driver_needs_the_token(services, tmp_path):
    run = {"capture_output": True, "text": True, "timeout": 120}
    with_token = subprocess.Popen((sys.executable, "-c", DRIVER), stdout=subprocess.PIPE, text=True)
    stranger = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    stranger |= {"HOME": str(tmp_path), "RAY_NUM_REDIS_GET_RETRIES": "1"}  # else it asks for 20 s
    without = subprocess.run((sys.executable, "-c", DRIVER), env=stranger, **run)
    assert with_token.communicate(timeout=120)[0] == "7\n"
    assert without.returncode != 0
    assert "oken" in without.stderr


def test_the_dashboard_needs_the_token(services):
    dashboard = local.status(services.state)[2].address
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask(f"{dashboard}/nodes?view=summary")


def test_the_browser_is_sent_to_this_servers_api(services):
    settings = ask(services.prefect_api.removesuffix("/api") + "/ui-settings")
    assert settings["api_url"] == services.prefect_api


def test_a_killed_worker_is_seen_and_comes_back_alone(services):
    pools = ask(f"{services.prefect_api}/work_pools/filter", body={})
    assert [(pool["name"], pool["type"]) for pool in pools] == [(POOL, "process")]
    before = {service.name: service.pid for service in local.status(services.state)}
    os.kill(before["worker"], signal.SIGKILL)
    assert [one.name for one in local.status(services.state) if not one.healthy] == ["worker"]
    deadline = time.monotonic() + 180
    while not all(one.healthy for one in local.status(services.state)):
        assert time.monotonic() < deadline, local.log(services.state, "supervisor").read_text()
        time.sleep(0.5)
    after = {service.name: service.pid for service in local.status(services.state)}
    assert {name for name in before if before[name] != after[name]} == {"worker"}
    told = local.log(services.state, "supervisor").read_text()
    assert f"worker (pid {before['worker']}) ended" in told and f"worker started again (pid {after['worker']})" in told


def test_prefect_here_means_this_server(services):
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    assert settings.api.url == services.prefect_api
    assert settings.home == services.state / "prefect"

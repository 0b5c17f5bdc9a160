"""What an operator set on Prefect's pages stays when this project is deployed again."""

import json
import os
import subprocess
import sys
import urllib.request
from typing import Any

import pytest

from infra.services import ask


def patch(url: str, body: Any) -> None:
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method="PATCH")
    urllib.request.urlopen(request, timeout=30).close()


def retraining(api: str) -> Any:
    """The one automation that starts a retraining."""
    (found,) = (one for one in ask(f"{api}/automations/filter", body={}) if "new shards" in one["name"])
    return found


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_schedules_parameters_pauses_and_switches_stay(deployed: Any) -> None:
    at, paused = (f"{deployed.api}/deployments/{deployed.deployments[name]['id']}" for name in ("retrain", "paper"))
    (schedule,) = ask(at)["schedules"]
    patch(f"{at}/schedules/{schedule['id']}", {"active": True, "schedule": {"cron": "30 2 * * 0", "timezone": "UTC"}})
    patch(at, {"parameters": {"model": "mine", "data": "data/mine"}})
    ask(f"{paused}/pause_deployment", body={})
    trigger = retraining(deployed.api)
    patch(f"{deployed.api}/automations/{trigger['id']}", {"enabled": False})
    tiny = f"{deployed.api}/deployments/{deployed.deployments['pipeline-tiny']['id']}"
    changed = ask(tiny)["parameters"]
    changed["recipe"]["training"]["total_images"] += 1
    patch(tiny, {"parameters": changed | {"run": "runs/elsewhere"}})
    try:
        for _ in range(2):
            command = [sys.executable, "-m", "flows.deploying"]
            done = subprocess.run(command, cwd=deployed.folder, env=os.environ, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            there = ask(at)
            (schedule,) = there["schedules"]
            assert (schedule["active"], schedule["schedule"]["cron"]) == (True, "30 2 * * 0")
            assert (there["parameters"]["model"], there["parameters"]["data"]) == ("mine", "data/mine")
            assert ask(paused)["paused"] and not there["paused"]
            assert retraining(deployed.api)["enabled"] is False
            told = ask(tiny)["parameters"]
            assert told["run"] == "runs/elsewhere"
            assert told["recipe"] == deployed.deployments["pipeline-tiny"]["parameters"]["recipe"]  # the preset's
    finally:
        patch(f"{deployed.api}/automations/{retraining(deployed.api)['id']}", {"enabled": True})
        for url, name in (at, "retrain"), (tiny, "pipeline-tiny"):
            patch(url, {"parameters": deployed.deployments[name]["parameters"]})
        patch(f"{at}/schedules/{ask(at)['schedules'][0]['id']}", {"active": False})
        ask(f"{paused}/resume_deployment", body={})

"""`python -m flows.deploying`: Prefect becomes `prefect.yaml` and `flows/automations.py`; what its pages set stays.

`prefect deploy` writes schedules, pauses, parameters and the switches of triggers anew: they are read before it, and
set again after it. Recipes and settings alone come with the code each time, for they are what the presets say.
"""

import os
import subprocess
import sys
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client

from flows import automations

OF_CODE = ("recipe", "settings")
SCHEDULE = ("schedule", "active", "max_scheduled_runs", "parameters", "slug")


def main() -> int:
    with get_client(sync_client=True) as client:
        deployments, triggers = _deployments(client), _triggers(client)
        done = subprocess.run([sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"])
        if done.returncode:
            return done.returncode
        for key, now in _deployments(client).items():
            if key in deployments:
                _as_before(client, now, deployments[key])
        for name, now in _triggers(client).items():
            if not triggers.get(name, now)["enabled"]:
                client.request("PATCH", "/automations/{id}", path_params={"id": now["id"]}, json={"enabled": False})
    for name in automations.deploy(os.environ.get(automations.VARIABLE)):
        print(name)
    return 0


def _deployments(client: SyncPrefectClient) -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["flow_id"], one["name"]): one for one in client.request("POST", "/deployments/filter", json={}).json()}


def _triggers(client: SyncPrefectClient) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in client.request("POST", "/automations/filter", json={}).json()}


def _as_before(client: SyncPrefectClient, now: dict[str, Any], before: dict[str, Any]) -> None:
    """Gives a deployment the schedules, the pause and the parameters again that it had."""
    at = {"id": now["id"]}
    kept = {
        key: value for key, value in before["parameters"].items() if key in now["parameters"] and key not in OF_CODE
    }
    if now["parameters"] != (parameters := now["parameters"] | kept):
        client.request("PATCH", "/deployments/{id}", path_params=at, json={"parameters": parameters})
    wanted, there = ([{key: one[key] for key in SCHEDULE} for one in of["schedules"]] for of in (before, now))
    if wanted != there:
        for one in now["schedules"]:
            client.delete_deployment_schedule(UUID(now["id"]), UUID(one["id"]))
        client.request("POST", "/deployments/{id}/schedules", path_params=at, json=wanted)
    if before["paused"] and not now["paused"]:
        client.request("POST", "/deployments/{id}/pause_deployment", path_params=at)


if __name__ == "__main__":
    sys.exit(main())

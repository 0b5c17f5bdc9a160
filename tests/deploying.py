"""Deployments of the small flows of tests/tasks/small.py, and runs of them."""

from typing import Any

from infra.services import ask


def deploy(deployed: Any, flow: str, name: str, **more: Any) -> str:
    """A deployment of a small flow from the copy of this project -> its id."""
    body = {
        "name": name,
        "flow_id": ask(f"{deployed.api}/flows/", body={"name": flow})["id"],
        "entrypoint": f"tests/tasks/small.py:{flow}",
        "work_pool_name": "flow-matching",
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(deployed.folder)}}],
        **more,
    }
    return ask(f"{deployed.api}/deployments/", body=body)["id"]


def start(deployed: Any, deployment: str, **parameters: Any) -> str:
    """A run of it now -> its id."""
    body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    return ask(f"{deployed.api}/deployments/{deployment}/create_flow_run", body=body)["id"]

"""Two faults that neighbouring versions of fastapi and sqlalchemy bring into Prefect's server without a word."""

import time

from infra.services import ask


def test_a_json_null_is_accepted_by_a_filter_route(services):
    """From fastapi 0.151 on it answers 422, and `prefect deploy` dies after its first deployment."""
    assert ask(f"{services.prefect_api}/flow_runs/filter", body={"limit": None}) is not None


def test_a_cron_deployment_gets_scheduled_runs(services):
    """With sqlalchemy 2.1 and Prefect 3.8 none is ever created."""
    api = services.prefect_api
    flow = ask(f"{api}/flows/", body={"name": "cron-guard"})
    nightly = {"schedule": {"cron": "0 3 * * *"}, "active": True}
    deployment = ask(f"{api}/deployments/", body={"name": "cron", "flow_id": flow["id"], "schedules": [nightly]})
    mine = {"deployments": {"id": {"any_": [deployment["id"]]}}}
    end = time.monotonic() + 90
    while not (runs := ask(f"{api}/flow_runs/filter", body=mine)):
        assert time.monotonic() < end, "the scheduler made no run"
        time.sleep(0.5)
    assert {run["state_type"] for run in runs} == {"SCHEDULED"}
    ask(f"{api}/deployments/{deployment['id']}/pause_deployment", body={})

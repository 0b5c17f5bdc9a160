"""Addresses of databases and artifacts; what a real PostgreSQL and S3 make of them is in test_services_elsewhere.py."""

from pathlib import Path
from typing import Any

import pytest

from fm.errors import UserError
from infra import stores
from infra.services import services
from infra.state import Ports
from infra.stores import Stores

STATE = Path("/state")
PASSWORD = "a-planted-secret"
PREFECT = f"postgresql+asyncpg://fm:{PASSWORD}@db/prefect"
MLFLOW = f"postgresql://fm:{PASSWORD}@db/mlflow"


def test_without_a_word_all_is_in_the_state_folder() -> None:
    assert Stores.of(STATE, {}) == Stores("", "sqlite:////state/mlflow/mlflow.db", "/state/mlflow/artifacts")
    assert Stores.of(STATE, {"FM_MLFLOW_BACKEND": ""}) == Stores.of(STATE, {})


def test_the_servers_get_the_addresses_by_their_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"FM_PREFECT_DATABASE": PREFECT, "FM_MLFLOW_BACKEND": MLFLOW, "FM_MLFLOW_ARTIFACTS": "s3://bucket/mlflow"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    known = services(STATE, Ports.from_base(20000))
    assert known["prefect"].environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == PREFECT
    assert known["mlflow"].environment["_MLFLOW_SERVER_FILE_STORE"] == MLFLOW.replace("://", "+psycopg2://")
    assert known["mlflow"].environment["_MLFLOW_SERVER_ARTIFACT_DESTINATION"] == "s3://bucket/mlflow"
    assert not any(PASSWORD in part for service in known.values() for part in (*service.command, service.url))
    for others in ("ray", "worker"):
        assert not any(PASSWORD in value for value in known[others].environment.values())
        assert {"FM_PREFECT_DATABASE", "FM_MLFLOW_BACKEND"} <= set(known[others].without)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("FM_PREFECT_DATABASE", MLFLOW, "FM_PREFECT_DATABASE: begins with postgresql://, known are "),
        ("FM_PREFECT_DATABASE", PASSWORD, "FM_PREFECT_DATABASE: is no address, known are "),
        ("FM_MLFLOW_BACKEND", PREFECT, "FM_MLFLOW_BACKEND: begins with postgresql+asyncpg://, known are "),
        ("FM_MLFLOW_ARTIFACTS", "artifacts", "FM_MLFLOW_ARTIFACTS: is neither an address nor an absolute path"),
        ("FM_MLFLOW_ARTIFACTS", "wasbs://box@account/a", "FM_MLFLOW_ARTIFACTS: needs the package azure.storage.blob"),
    ],
)
def test_a_wrong_one_is_one_sentence_without_it(name: str, value: str, says: str) -> None:
    with pytest.raises(UserError) as raised:
        stores.check({name: value})
    assert str(raised.value).startswith(says)
    assert PASSWORD not in str(raised.value)


def test_right_ones_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    found: Any = object()
    monkeypatch.setattr(stores, "find_spec", lambda name: found)
    stores.check({"FM_PREFECT_DATABASE": PREFECT, "FM_MLFLOW_BACKEND": MLFLOW, "FM_MLFLOW_ARTIFACTS": "s3://b/a"})
    stores.check({"FM_MLFLOW_ARTIFACTS": "/srv/artifacts"})


def test_a_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package psycopg2-binary"):
        stores.check({"FM_MLFLOW_BACKEND": MLFLOW})
    with pytest.raises(UserError, match="needs the package boto3"):
        stores.check({"FM_MLFLOW_ARTIFACTS": "s3://bucket/a"})

"""Names and refusals of the registry; versions, aliases and rollback against a real MLflow are in tests/flows."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from fm.errors import SettingsError, UserError
from infra.services import Services
from tasks import registry, tracking


@pytest.mark.parametrize("name", ["", "a/b", "../x", "-x", "a b", "x" * 81, "a:b", "models@1", "'"])
def test_a_name_that_is_none_is_refused_before_anybody_is_asked(name: str) -> None:
    with pytest.raises(SettingsError, match="is no name of a model; take letters"):
        registry.champion(name)


def test_without_mlflow_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"http://127.0.0.1:1: MLflow is away or refuses .*; start it") as error:
        registry.champion("photos")
    assert "\n" not in str(error.value)


def test_a_version_that_is_there_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "published_weights", lambda folder: "w" if folder == tmp_path else "")
    assert registry.fetch(registry.Version("m", "1", "nowhere", {"weights": "w"}), tmp_path) == tmp_path


def made(model: str) -> registry.Version:
    """A new version, with no file behind it."""
    with tracking.answering() as client:
        run = client.create_run("0").info
        told = client.create_model_version(model, f"{run.artifact_uri}/model", run.run_id, await_creation_for=0)
        return registry._version(told)


@pytest.mark.timeout(300)
def test_of_two_that_beat_the_same_champion_at_once_one_becomes_it(services: Services) -> None:
    model, both = "two-at-once", Barrier(2)
    with tracking.answering() as client:
        client.create_registered_model(model)
    before = made(model)
    registry.crown(before, None)

    def crowned(version: registry.Version) -> str:
        both.wait()
        return registry.crown(version, before)

    for _ in range(3):
        one, other = made(model), made(model)
        with ThreadPoolExecutor(2) as pool:
            said = [*pool.map(crowned, (one, other))]
        now = registry.champion(model)
        assert now and now.number in (one.number, other.number) and now.tags["replaced"] == before.number
        again = "`fm promote RUN --model two-at-once` judges against that one"
        kept_out = f"version {now.number} became champion meanwhile; {again}"
        assert sorted(said) == ["", kept_out]
        with tracking.answering() as client:
            tags = [client.get_model_version(model, version.number).tags for version in (one, other)]
        assert sorted(found.get("kept_out", "") for found in tags) == ["", kept_out]
        assert registry.rollback(model)[1].number == before.number
        assert registry.champion(model) == before
        loser = one if now.number == other.number else other
        assert registry.crown(loser, before) == "" and registry.champion(model).tags.get("kept_out") is None  # type: ignore[union-attr]
        assert registry.rollback(model)[1] == before


def test_without_prefect_no_champion_is_moved() -> None:
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    version = registry.Version("m", "1", "nowhere", {"weights": "w"})
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}):  # noqa: SIM117
        with pytest.raises(UserError, match=r"^champion m: Prefect gives no slot \(ConnectError\); the same again"):
            registry.crown(version, None)

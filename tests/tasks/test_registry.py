"""Names and refusals of the registry; versions, aliases and rollback against a real MLflow are in tests/flows."""

from pathlib import Path

import pytest

from fm.errors import SettingsError, UserError
from tasks import registry


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

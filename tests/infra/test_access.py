"""Who may reach the services: each thing that is missing has its sentence; what is secret is not said."""

from pathlib import Path

import pytest

from fm.errors import UserError
from infra import access
from infra.services import services
from infra.state import Ports, make_folders, unlink_short_folder

LOGIN = "admin:a-long-password-of-prefect"


@pytest.fixture
def given(tmp_path: Path) -> dict[str, str]:
    """All that an open address needs."""
    config, token = tmp_path / "auth.ini", tmp_path / "token"
    config.write_text(f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{tmp_path}/auth.db\n")
    token.write_text("0123456789abcdef" * 4)
    for file in (config, token):
        file.chmod(0o600)
    return {
        "PREFECT_SERVER_API_AUTH_STRING": LOGIN,
        "PREFECT_API_AUTH_STRING": LOGIN,
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-long-random-text",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "a-long-password-of-mlflow",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": "a-long-password-of-mlflow",
        "MLFLOW_SERVER_ALLOWED_HOSTS": "gpu1.lab:5000",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }


def test_all_given_is_enough_and_nothing_is_needed_on_this_machine(given: dict[str, str]) -> None:
    access.check("0.0.0.0", given)
    access.check("127.0.0.1", {})
    access.check("localhost", {})


def test_each_missing_thing_has_its_sentence(given: dict[str, str]) -> None:
    with pytest.raises(UserError) as raised:
        access.check("0.0.0.0", {})
    first, *sentences = str(raised.value).splitlines()
    assert first == "--host 0.0.0.0: lets others reach the services, but"
    assert "infra/README.md" in sentences[-1]
    for name in given:
        assert sum(name in sentence for sentence in sentences) == 1, name
    assert len(sentences) == len(given)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("PREFECT_SERVER_API_AUTH_STRING", "admin:short", "has a password that has fewer than 12 characters"),
        ("PREFECT_API_AUTH_STRING", "admin:another-password", "is not what PREFECT_SERVER_API_AUTH_STRING asks for"),
        ("MLFLOW_AUTH_ADMIN_PASSWORD", "password1234", "is one that everybody knows"),
        ("MLFLOW_AUTH_ADMIN_PASSWORD", "elevenchars", "has fewer than 12 characters"),
        ("MLFLOW_AUTH_CONFIG_PATH", "/no/such/file", "cannot be read (No such file or directory)"),
        ("MLFLOW_SERVER_ALLOWED_HOSTS", "*", "does not name the hosts"),
        ("MLFLOW_TRACKING_PASSWORD", "", "MLFLOW_TRACKING_PASSWORD is not set"),
        ("RAY_AUTH_TOKEN_PATH", "", "RAY_AUTH_TOKEN_PATH is not set"),
        ("RAY_AUTH_TOKEN_PATH", "/no/such/file", "RAY_AUTH_TOKEN_PATH (/no/such/file) cannot be read"),
    ],
)
def test_each_weak_thing_has_its_sentence(given: dict[str, str], name: str, value: str, says: str) -> None:
    with pytest.raises(UserError) as raised:
        also = {"PREFECT_API_AUTH_STRING": value} if name == "PREFECT_SERVER_API_AUTH_STRING" else {}
        access.check("0.0.0.0", given | {name: value} | also)
    assert says in str(raised.value)
    assert len(str(raised.value).splitlines()) == 2, "and nothing else has one"
    assert "short" not in str(raised.value), "the password is not said"


def test_files_with_secrets_must_be_private(given: dict[str, str]) -> None:
    for name in ("MLFLOW_AUTH_CONFIG_PATH", "RAY_AUTH_TOKEN_PATH"):
        Path(given[name]).chmod(0o640)
        with pytest.raises(UserError, match="can be read by others: chmod 600"):
            access.check("0.0.0.0", given)
        Path(given[name]).chmod(0o600)


def test_the_file_of_logins_needs_an_absolute_database(given: dict[str, str]) -> None:
    for text in ("", "[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///auth.db\n", "no file of this kind"):
        Path(given["MLFLOW_AUTH_CONFIG_PATH"]).write_text(text)
        with pytest.raises(UserError, match="absolute database_uri"):
            access.check("0.0.0.0", given)


def test_the_administrators_password_may_stand_in_the_file(given: dict[str, str]) -> None:
    del given["MLFLOW_AUTH_ADMIN_PASSWORD"]
    file = Path(given["MLFLOW_AUTH_CONFIG_PATH"])
    file.write_text(file.read_text() + "admin_password = a-long-password-of-mlflow\n")
    access.check("0.0.0.0", given)


def test_on_this_machine_what_is_begun_must_be_whole() -> None:
    with pytest.raises(UserError, match="PREFECT_API_AUTH_STRING is not set"):
        access.check("127.0.0.1", {"PREFECT_SERVER_API_AUTH_STRING": LOGIN})
    access.check("127.0.0.1", {"PREFECT_SERVER_API_AUTH_STRING": LOGIN, "PREFECT_API_AUTH_STRING": LOGIN})


def test_a_host_must_be_this_machines() -> None:
    assert access.is_local("localhost") and not access.is_local("0.0.0.0")
    for stranger in ("192.0.2.7", "no-such-host.invalid", "::1"):
        with pytest.raises(UserError, match="is no IPv4 address or name of this machine"):
            access.is_local(stranger)
    assert access.reached_at("127.0.0.1") == access.ip_of("127.0.0.1") == "127.0.0.1"
    assert access.reached_at("0.0.0.0") != "0.0.0.0"


def test_rays_token_is_the_given_one_where_others_need_it(
    given: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", given["RAY_AUTH_TOKEN_PATH"])
    state = tmp_path / "s"
    state.mkdir()
    make_folders(state)
    own = (state / "ray-token").read_text()
    assert own != access.ray_token()
    make_folders(state, given_token=True)
    unlink_short_folder(state)
    assert (state / "ray-token").read_text() == access.ray_token() == "0123456789abcdef" * 4
    assert (state / "ray-token").stat().st_mode & 0o777 == 0o600


def test_the_servers_listen_and_are_called_as_asked(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    ports = Ports.from_base(20000, "0.0.0.0")
    known = services(Path("/state"), ports)
    for name in ("prefect", "mlflow"):
        command = known[name].command
        assert command[command.index("--host") + 1] == "0.0.0.0"
    assert "mlflow.server.auth:create_app" in known["mlflow"].command
    hosts = known["mlflow"].environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert hosts[0] == "gpu1.lab:5000" and f"{ports.address}:20001" in hosts and "*" not in hosts
    assert "http://gpu1.lab:5000" in known["mlflow"].environment["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].split(",")
    assert f"--node-ip-address={ports.address}" in known["ray"].command
    assert all("0.0.0.0" not in service.url for service in known.values())
    assert access.SECRETS and not any(
        given[name] in part for name in access.SECRETS if name in given for s in known.values() for part in s.command
    )


def test_a_service_gets_no_secret_that_is_not_its_business() -> None:
    known = services(Path("/state"), Ports.from_base(20000))
    assert {"PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD"} <= set(known["ray"].without)
    assert "PREFECT_SERVER_API_AUTH_STRING" in known["mlflow"].without
    assert "MLFLOW_AUTH_ADMIN_PASSWORD" in known["prefect"].without
    assert "PREFECT_API_AUTH_STRING" not in known["worker"].without, "whose flows answer with it"


def test_logins_are_headers() -> None:
    assert access.prefect_login({}) == access.mlflow_login({}) == {}
    assert access.prefect_login({"PREFECT_API_AUTH_STRING": "a:b"}) == {"Authorization": "Basic YTpi"}
    assert access.mlflow_login({"MLFLOW_TRACKING_USERNAME": "a", "MLFLOW_TRACKING_PASSWORD": "b"}) == {
        "Authorization": "Basic YTpi"
    }


def test_what_is_secret_is_not_said(given: dict[str, str]) -> None:
    given |= {"FM_MLFLOW_BACKEND": "postgresql://fm:it%27s-secret@db/mlflow"}
    said = access.unsaid(
        f"login {LOGIN} and a-long-password-of-prefect, it's-secret, it%27s-secret, "
        "postgresql+asyncpg://fm:other@db/x, http://127.0.0.1:5000/#/a@b",
        given,
    )
    assert said == "login *** and ***, ***, ***, postgresql+asyncpg://fm:***@db/x, http://127.0.0.1:5000/#/a@b"

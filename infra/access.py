"""Who may reach the services: the address they listen on, the logins they ask for, and what must not be said aloud.

On 127.0.0.1 logins are the user's choice; where others reach the services, all three must ask for one.
"""

import base64
import configparser
import os
import re
import socket
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fm.errors import UserError
from infra import stores

HOST = "127.0.0.1"
SHORTEST_PASSWORD = 12
KNOWN_PASSWORDS = ("password", "password1234")
"""What MLflow shipped as its administrator's."""

OF_PREFECTS_SERVER = (
    "PREFECT_SERVER_API_AUTH_STRING",
    stores.PREFECT_DATABASE,
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
)
OF_MLFLOWS_SERVER = ("MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_AUTH_ADMIN_PASSWORD", stores.MLFLOW_BACKEND)
OF_CLIENTS = ("PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
OF_NOBODY = ("FM_NOTIFY_URL",)  # `fm up` alone reads it, into a block of Prefect's
SECRETS = (*OF_PREFECTS_SERVER, *OF_MLFLOWS_SERVER, *OF_CLIENTS, *OF_NOBODY, "RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY")


def is_local(host: str) -> bool:
    """Whether only this machine reaches what listens on a host.

    Raises: UserError if it is no address of this machine.
    """
    try:
        address = socket.gethostbyname(host)
        with socket.socket() as probe:
            probe.bind((address, 0))
    except OSError:
        raise UserError(
            "is no IPv4 address or name of this machine", f"--host {host}", "take one of its own, or 0.0.0.0 for all"
        ) from None
    return address.startswith("127.")


def reached_at(host: str) -> str:
    """The name under which others reach what listens on a host: itself, or for 0.0.0.0 this machine's first address.

    Raises: UserError if the machine has none.
    """
    if host != "0.0.0.0":
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: the system only chooses the address it would send from
            return probe.getsockname()[0]
        except OSError:
            raise UserError(
                "this machine has no address that others reach", "--host 0.0.0.0", "name one, or leave --host out"
            ) from None


def ip_of(address: str) -> str:
    """Ray wants numbers for a name; of one that cannot be looked up now, the name."""
    try:
        return socket.gethostbyname(address)
    except OSError:
        return address


def check(host: str, environment: Mapping[str, str] = os.environ) -> None:
    """Whether the services may be started on a host with the logins that the environment has.

    Raises: UserError with a sentence for each thing that is missing.
    """
    open_to_others = not is_local(host)
    wanting = list(_wanting(open_to_others, environment))
    if not wanting:
        return
    what = "lets others reach the services" if open_to_others else "logins are asked for"
    where = f"--host {host}" if open_to_others else "logins"
    raise UserError(f"{what}, but\n  " + ";\n  ".join(wanting), where, "infra/README.md says how each is made")


def logins(host: str = HOST, environment: Mapping[str, str] = os.environ) -> list[str]:
    """The services that ask for a login of the user's own when started in this environment on this host."""
    switches = {"prefect": "PREFECT_SERVER_API_AUTH_STRING", "mlflow": "MLFLOW_AUTH_CONFIG_PATH"}
    given = [name for name, switch in switches.items() if environment.get(switch)]
    return given if is_local(host) else [*given, "ray"]  # which on this machine alone has a token of its folder's


def _wanting(open_to_others: bool, environment: Mapping[str, str]) -> Iterator[str]:
    asked = logins(environment=environment)
    if open_to_others or "prefect" in asked:
        yield from _wanting_of_prefect(environment)
    if open_to_others or "mlflow" in asked:
        yield from _wanting_of_mlflow(environment)
    if open_to_others:
        hosts = environment.get("MLFLOW_SERVER_ALLOWED_HOSTS", "")
        if not hosts or "*" in hosts.split(","):
            yield "MLFLOW_SERVER_ALLOWED_HOSTS does not name the hosts by which others call MLflow, e.g. gpu1.lab:5000"
        yield from _wanting_of_ray(environment)


def _wanting_of_prefect(environment: Mapping[str, str]) -> Iterator[str]:
    asked = environment.get("PREFECT_SERVER_API_AUTH_STRING", "")
    if not asked:
        yield "PREFECT_SERVER_API_AUTH_STRING is not set: what Prefect asks for, USER:PASSWORD"
    elif weak := _weak(asked.partition(":")[2]):
        yield f"PREFECT_SERVER_API_AUTH_STRING, USER:PASSWORD, has a password that {weak}"
    given = environment.get("PREFECT_API_AUTH_STRING", "")
    if not given:
        yield "PREFECT_API_AUTH_STRING is not set: with what worker, flows and commands answer Prefect"
    elif asked and given != asked:
        yield "PREFECT_API_AUTH_STRING is not what PREFECT_SERVER_API_AUTH_STRING asks for"


def _wanting_of_mlflow(environment: Mapping[str, str]) -> Iterator[str]:
    if not find_spec("flask_wtf"):
        yield "MLflow's logins need the package mlflow[auth]: run `make setup` again"
    path = environment.get("MLFLOW_AUTH_CONFIG_PATH", "")
    config: Mapping[str, str] = {}
    if not path:
        yield "MLFLOW_AUTH_CONFIG_PATH is not set: the file that says how MLflow asks for logins"
    elif wrong := _not_private(path):
        yield f"MLFLOW_AUTH_CONFIG_PATH ({path}) {wrong}"
    else:
        config = _read(path)
        if not config.get("default_permission") or not _absolute(config.get("database_uri", "")):
            yield f"MLFLOW_AUTH_CONFIG_PATH ({path}) has no [mlflow] with default_permission and absolute database_uri"
    if not environment.get("MLFLOW_FLASK_SERVER_SECRET_KEY"):
        yield "MLFLOW_FLASK_SERVER_SECRET_KEY is not set: a long random text, with which MLflow signs its forms"
    password = environment.get("MLFLOW_AUTH_ADMIN_PASSWORD") or config.get("admin_password", "")
    if weak := _weak(password):
        yield f"MLFLOW_AUTH_ADMIN_PASSWORD (or admin_password in that file) {weak}"
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        if not environment.get(name):
            yield f"{name} is not set: with what flows and commands answer MLflow"


def _wanting_of_ray(environment: Mapping[str, str]) -> Iterator[str]:
    path = environment.get("RAY_AUTH_TOKEN_PATH", "")
    if path and (wrong := _not_private(path)):
        yield f"RAY_AUTH_TOKEN_PATH ({path}) {wrong}"
    elif not ray_token(environment):
        yield "RAY_AUTH_TOKEN_PATH is not set: the file with Ray's token, `ray get-auth-token --generate` makes one"
    elif len(ray_token(environment)) < 2 * SHORTEST_PASSWORD:
        yield f"Ray's token has fewer than {2 * SHORTEST_PASSWORD} characters"


def ray_token(environment: Mapping[str, str] = os.environ) -> str:
    """Ray's token as the environment gives it, or nothing."""
    path = environment.get("RAY_AUTH_TOKEN_PATH", "")
    if path and Path(path).is_file():
        return Path(path).read_text().strip()
    return environment.get("RAY_AUTH_TOKEN", "")


def _weak(password: str) -> str:
    if not password:
        return "is not set"
    if password in KNOWN_PASSWORDS:
        return "is one that everybody knows"
    return "" if len(password) >= SHORTEST_PASSWORD else f"has fewer than {SHORTEST_PASSWORD} characters"


def _not_private(path: str) -> str:
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return f"can be read by others: chmod 600 {path}" if mode & 0o077 else ""


def _absolute(address: str) -> bool:
    return "://" in address and (not address.startswith("sqlite:") or address.startswith("sqlite:////"))


def _read(path: str) -> Mapping[str, str]:
    config = configparser.ConfigParser()
    try:
        config.read(path)
        return dict(config["mlflow"])
    except (configparser.Error, KeyError):
        return {}


def prefect_login(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The header with which to ask Prefect's API; empty without a login."""
    return _basic(environment.get("PREFECT_API_AUTH_STRING", ""))


def mlflow_login(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The header with which to ask MLflow; empty without a login."""
    user = environment.get("MLFLOW_TRACKING_USERNAME", "")
    return _basic(f"{user}:{environment.get('MLFLOW_TRACKING_PASSWORD', '')}" if user else "")


def _basic(login: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}


def mlflow_hosts(address: str, port: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The names by which MLflow lets itself be called, and the pages that may send to it."""
    own = [address, f"{address}:{port}", "localhost", f"localhost:{port}", "127.0.0.1", f"127.0.0.1:{port}"]
    given = [host.strip() for host in environment.get("MLFLOW_SERVER_ALLOWED_HOSTS", "").split(",") if host.strip()]
    hosts = list(dict.fromkeys([*given, *own]))
    origins = [f"{scheme}://{host}" for host in hosts for scheme in ("http", "https")]
    return {
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": environment.get("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS")
        or ",".join(origins),
    }


def unsaid(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """A text without the secrets of the environment and without passwords in addresses."""
    for name in SECRETS:
        for secret in _spoken(environment.get(name, "")):
            text = text.replace(secret, "***")
    return re.sub(r"(://[^:/@\s]*):[^@/\s]+@", r"\1:***@", text)


def _spoken(value: str) -> list[str]:
    """The forms in which a secret may be said, the longest first: itself, or the password in it."""
    if "://" in value:
        password = urlsplit(value).password or ""
        forms = {value, password, unquote(password)}
    else:
        forms = {value, value.partition(":")[2]}
    return sorted((form for form in forms if len(form) >= 4), key=len, reverse=True)

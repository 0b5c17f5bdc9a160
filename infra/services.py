"""Which services there are: Prefect, MLflow, Ray, a Prefect worker and what looks after them; ports, commands, health.

Each is started without the launcher that its maker ships where that one only imports everything a second time.
Starting, stopping and remembering them is `infra/local.py`'s affair.
"""

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from infra import access
from infra.access import HOST
from infra.state import Ports, short_folder
from infra.stores import Stores

POOL = "flow-matching"
SUPERVISOR = "supervisor"
SILENT_S = 60.0
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # its second pages, at /v2, ask amplitude.com all the same
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Telemetry off: besides privacy, machines without a way out stall on it."""


def caches(state: Path) -> dict[str, str]:
    """The variables by which caches, ours, Matplotlib's and PyTorch's, lie in the state folder, unless the user has set
    another place."""
    own = {"XDG_CACHE_HOME": "", "MPLCONFIGDIR": "matplotlib", "TORCHINDUCTOR_CACHE_DIR": "torchinductor"}
    return {name: os.environ.get(name) or str(state / "cache" / place) for name, place in own.items()}


class LoginRefused(Exception):
    """A service answers, but not to the login that this process has."""


@dataclass(frozen=True)
class Services:
    """Where the services answer; `ray` is "" where a flow starts a local Ray itself."""

    prefect_api: str
    mlflow: str
    ray: str
    ray_token_path: Path
    state: Path

    @classmethod
    def at(cls, state: Path, ports: Ports, ray: bool = True) -> "Services":
        return cls(
            prefect_api=f"http://{ports.address}:{ports.prefect}/api",
            mlflow=f"http://{ports.address}:{ports.mlflow}",
            ray=f"{ports.address}:{ports.ray}" if ray else "",
            ray_token_path=state / "ray-token",
            state=state,
        )

    def environment(self) -> dict[str, str]:
        """The variables through which flows, tasks and the clients of all three systems find the services."""
        return {
            **QUIET,
            "FM_STATE": str(self.state),
            "PREFECT_API_URL": self.prefect_api,
            "PREFECT_HOME": str(self.state / "prefect"),
            "PREFECT_CLIENT_MAX_RETRIES": "6",  # waits out about two minutes without the server
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # dead flow runs are found by their missing heartbeat
            "MLFLOW_TRACKING_URI": self.mlflow,
            # Metrics are mirrored from RUN/records and sent again later: a call must fail soon, not hold up a run.
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
            # Said explicitly, for a bare ray.init() would silently join whatever cluster it finds on this machine.
            "RAY_ADDRESS": self.ray or "local",
            # Ray listens on all interfaces of a machine that has any: never without a token.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.ray_token_path),
            "RAY_TMPDIR": str(short_folder(self.state)),
            **caches(self.state),
        }


@dataclass(frozen=True)
class Service:
    """One service: how to start it, and how to ask whether it does its work (given its process's start time)."""

    url: str
    command: tuple[str, ...]
    healthy: Callable[[float], bool]
    ports: tuple[int, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    """Secrets of the environment that are not its business."""
    private: bool = False
    """Whether its files are for nobody else to read."""


def services(state: Path, ports: Ports) -> dict[str, Service]:
    """All services of a state folder by name, in the order in which they start."""
    here = Services.at(state, ports)
    return {
        "prefect": prefect_server(here, ports),
        "mlflow": mlflow_server(here, ports),
        "ray": ray_head(here, ports),
        "worker": prefect_worker(here),
        SUPERVISOR: supervisor(state),
    }


def prefect_server(here: Services, ports: Ports) -> Service:
    database = Stores.of(here.state).prefect
    return Service(
        url=here.prefect_api.removesuffix("/api"),
        ports=(ports.prefect,),
        command=uvicorn("infra.prefect_app:create_app", ports.host, ports.prefect, "--factory"),
        environment={
            **QUIET,
            "PREFECT_HOME": str(here.state / "prefect"),
            "PREFECT_API_URL": here.prefect_api,
            "PREFECT_SERVER_API_HOST": ports.host,
            "PREFECT_SERVER_API_PORT": str(ports.prefect),
            # On disk, for a slot whose lease a server forgot would be taken for ever.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            # A database that is away for long costs no event (an hour of tries), and what waited is soon written.
            "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_MAX_FLUSH_RETRIES": "720",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
            "PREFECT__SERVER_FINAL": "1",  # as `prefect server start --background` does: this app is the only one
            **({"PREFECT_SERVER_DATABASE_CONNECTION_URL": database} if database else {}),
        },
        healthy=lambda started: ask(f"{here.prefect_api}/health") is True,
        without=(*access.OF_NOBODY, *access.OF_MLFLOWS_SERVER, "MLFLOW_TRACKING_PASSWORD"),
    )


def mlflow_server(here: Services, ports: Ports) -> Service:
    """`mlflow server` without its launcher process: half the memory (250 MiB) and 5 of 12 CPU seconds less to start."""
    stores, login = Stores.of(here.state), "mlflow" in access.logins()
    app = ("mlflow.server.auth:create_app", "--factory") if login else ("mlflow.server.fastapi_app:app",)
    search = f"{here.mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    return Service(
        url=here.mlflow,
        ports=(ports.mlflow,),
        command=uvicorn(app[0], ports.host, ports.mlflow, *app[1:]),
        environment={
            **QUIET,
            "MLFLOW_TRACKING_URI": here.mlflow,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            # What the launcher would hand to its server process.
            "_MLFLOW_SERVER_FILE_STORE": stores.mlflow,
            "_MLFLOW_SERVER_REGISTRY_STORE": stores.mlflow,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": stores.artifacts,
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SGI_NAME": "uvicorn",
            "TMPDIR": str(here.state / "mlflow"),  # its lock files
            **({} if ports.host == HOST else access.mlflow_hosts(ports.address, ports.mlflow)),
        },
        # Not /health, which answers before the database is there.
        healthy=lambda started: "experiments" in ask(search, headers=access.mlflow_login()),
        without=(*access.OF_NOBODY, *access.OF_PREFECTS_SERVER, "PREFECT_API_AUTH_STRING"),
        private=login,
    )


def ray_head(here: Services, ports: Ports) -> Service:
    dashboard = f"http://{ports.address}:{ports.dashboard}"

    def healthy(started: float) -> bool:
        token = {"Authorization": f"Bearer {here.ray_token_path.read_text()}"}
        nodes = ask(f"{dashboard}/nodes?view=summary", headers=token)["data"]["summary"]
        return any(node["raylet"]["state"] == "ALIVE" for node in nodes)

    environment = here.environment()
    del environment["RAY_ADDRESS"]
    return Service(
        url=dashboard,
        ports=(ports.ray, ports.dashboard, ports.ray_client),
        command=(
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
            *(f"--node-ip-address={access.ip_of(ports.address)}", f"--port={ports.ray}"),
            *(
                f"--dashboard-host={ports.host}",
                f"--dashboard-port={ports.dashboard}",
                "--dashboard-agent-listen-port=0",
            ),
            "--include-dashboard=true",  # else a Ray without its `default` extra leaves it out and says nothing
            f"--ray-client-server-port={ports.ray_client}",
            *("--log-style=record", "--log-color=false"),
        ),
        environment={
            **environment,
            # Its dashboard leaves a socket in the folder for temporary files, under a name that must be short.
            "TMPDIR": str(short_folder(here.state) / "ray"),
            # Metrics on ports of their own choice: the fixed ones clash with a second cluster.
            "AUTOSCALER_METRIC_PORT": "0",
            "DASHBOARD_METRIC_PORT": "0",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # 30 s, for proxies that serve requests
            # As for a Ray that tasks/cluster.py starts: workers do not yield to the rest of the machine, and idle ones,
            # which take seconds to start, wait for the next stage.
            "RAY_worker_niceness": "0",
            "RAY_idle_worker_killing_time_threshold_ms": "300000",
        },
        healthy=healthy,
        without=(*access.OF_NOBODY, *access.OF_PREFECTS_SERVER, *access.OF_MLFLOWS_SERVER, *access.OF_CLIENTS),
    )


def prefect_worker(here: Services) -> Service:
    name = "local"

    def healthy(started: float) -> bool:
        workers = ask(f"{here.prefect_api}/work_pools/{POOL}/workers/filter", {}, access.prefect_login())
        return any(
            worker["name"] == name
            and worker["status"] == "ONLINE"
            # Not the last sign of life of a worker before this one; a start time is exact to a second.
            and datetime.fromisoformat(worker["last_heartbeat_time"]).timestamp() > started + 1
            for worker in workers
        )

    return Service(
        url=f"{here.prefect_api.removesuffix('/api')}/work-pools/work-pool/{POOL}",
        command=(
            *(sys.executable, "-m", "prefect", "worker", "start", "--name", name),
            *("--pool", POOL, "--type", "process", "--install-policy", "never"),
        ),
        environment={
            **here.environment(),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        },
        healthy=healthy,
        after=("prefect",),
        without=(*access.OF_NOBODY, *access.OF_PREFECTS_SERVER, *access.OF_MLFLOWS_SERVER),
    )


def supervisor(state: Path) -> Service:
    def healthy(started: float) -> bool:
        return beat(state).stat().st_mtime > max(started - 1, time.time() - SILENT_S)

    return Service(
        url="",
        command=(sys.executable, "-m", "infra.supervisor", str(state)),
        environment=dict(QUIET),
        healthy=healthy,
    )


def beat(state: Path) -> Path:
    """The file that the supervisor touches each time it has looked."""
    return state / "supervisor.beat"


def uvicorn(app: str, host: str, port: int, *options: str) -> tuple[str, ...]:
    listen = ("--host", host, "--port", str(port), "--no-access-log", "--no-use-colors")
    return (sys.executable, "-m", "uvicorn", app, *listen, *options)


def ask(url: str, body: Any = None, headers: dict[str, str] | None = None, timeout_s: float = 5.0) -> Any:
    """The JSON that a service of this machine answers, asked without any proxy.

    Raises: OSError, ValueError or http.client.HTTPException if it does not answer, or not with JSON.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=timeout_s) as answer:
        return json.load(answer)


def healthy(service: Service, started: float) -> bool:
    """Whether the service does its work now; a service that cannot be asked does not.

    Raises: LoginRefused if it does not take the login that this process has, or wants one.
    """
    try:
        return service.healthy(started)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise LoginRefused from None
        return False
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return False

"""What starts a cluster elsewhere, as far as it can be tried here: Ray's schema, rules of KubeRay, the shell's eye,
docker-compose's and kubectl's reading; `deploy.sh` on a Prefect; that the containers have the settings of `fm up`, and
that no file has a password of its own."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from infra import local
from infra.access import HOST
from infra.services import POOL, Services, ask, caches, services
from infra.state import Ports, held

INFRA = Path(__file__).parents[2] / "infra"
CLUSTER = INFRA / "cluster"
SECRETS = [f"FM_{name}_SECRET" for name in ("POSTGRES", "OBJECTS", "PREFECT", "MLFLOW", "MLFLOW_KEY", "RAY")]


def read(name: str, folder: Path = CLUSTER) -> Any:
    return yaml.safe_load((folder / name).read_text())


def test_ray_takes_the_cluster() -> None:
    config = prepare_config(read("ray-cluster.yaml"))
    validate_config(config)
    assert all(pattern.startswith("/") for pattern in config["rsync_exclude"])  # fm/data is to come along


def test_the_job_keeps_rules_of_kuberay() -> None:
    job = read("rayjob.yaml", INFRA / "kuberay")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"]["mode"] == "token" and cluster["rayVersion"] == version("ray")  # it refuses one alone
    assert "dashboard-host" not in cluster["headGroupSpec"]["rayStartParams"]  # the submitter is another pod
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        assert "rayStartParams" in group
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["image"] and {mount["name"] for mount in container["volumeMounts"]} <= volumes
    assert all(group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] for group in groups[1:])


def test_the_slurm_script_is_bash() -> None:
    done = subprocess.run(["bash", "-n", str(CLUSTER / "train.sbatch")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    own = "export FM_STATE=${FM_STATE:-$PWD/.state-$SLURM_JOB_ID}"  # beside a `fm up` of another machine
    assert own in (CLUSTER / "train.sbatch").read_text()


def composed(tmp_path: Path, secrets: list[str]) -> subprocess.CompletedProcess[str]:
    """What Debian's docker-compose makes of compose.yaml with these secrets given."""
    if not shutil.which("docker-compose"):
        pytest.skip("no docker-compose on this machine (Debian: apt-get install docker-compose)")
    file = tmp_path / "compose.env"
    file.write_text("".join(f"{name}=planted-{number}\n" for number, name in enumerate(secrets)))
    command = ["docker-compose", "-f", str(INFRA / "compose.yaml"), "--env-file", str(file), "config"]
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)


def test_compose_takes_the_services(tmp_path: Path) -> None:
    done = composed(tmp_path, SECRETS)
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load(done.stdout)
    services = found["services"]
    once = {"buckets", "deploy"}
    assert {*services} - once == {"postgres", "objects", "prefect", "mlflow", "ray-head", "ray-worker", "worker"}
    for name, service in services.items():
        assert service["restart"] == ("on-failure" if name in once else "unless-stopped"), name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:") if isinstance(port, str) else port["host_ip"] == "127.0.0.1"
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"} and services[needed]["healthcheck"]["test"]
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0] if isinstance(volume, str) else volume["source"]
            assert source in found["volumes"] or Path(source).exists()
    worker, prefect, mlflow = (services[name]["environment"] for name in ("worker", "prefect", "mlflow"))
    assert prefect["PREFECT_SERVER_API_AUTH_STRING"] == worker["PREFECT_API_AUTH_STRING"] == "fm:planted-2"
    assert mlflow["MLFLOW_AUTH_ADMIN_PASSWORD"] == worker["MLFLOW_TRACKING_PASSWORD"]
    assert prefect["PREFECT_SERVER_DATABASE_CONNECTION_URL"].startswith("postgresql+asyncpg://fm:planted-0@postgres/")
    nodes = [services[name]["environment"] for name in ("ray-head", "ray-worker", "worker")]
    assert {node["RAY_AUTH_MODE"] for node in nodes} == {"token"}
    assert len({node["RAY_AUTH_TOKEN"] for node in nodes}) == 1
    assert "PREFECT_API_AUTH_STRING" not in nodes[0] and "MLFLOW_TRACKING_PASSWORD" not in nodes[1]
    assert not any("planted" in str(service.get("command")) for service in services.values())


def test_compose_starts_nothing_without_its_secrets(tmp_path: Path) -> None:
    done = composed(tmp_path, SECRETS[:-1])
    assert done.returncode != 0 and SECRETS[-1] in done.stderr
    text = (INFRA / "compose.yaml").read_text()
    assert all(f"${{{name}:?" in text for name in SECRETS), "each is asked for"
    assert {*re.findall(r"FM_\w+_SECRET", text)} == {*SECRETS}


def built() -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send, without a cluster to send it to; where there is no kubectl, the files."""
    if not shutil.which("kubectl"):
        files = read("kustomization.yaml", INFRA / "kuberay")["resources"]
        return [one for file in files for one in yaml.safe_load_all((INFRA / "kuberay" / file).read_text())]
    command = ["kubectl", "kustomize", str(INFRA / "kuberay")]
    return list(yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def pods(one: dict[str, Any]) -> list[dict[str, Any]]:
    """The pods that an object asks for, however deep."""
    if "containers" in one:
        return [one]
    parts = [value for value in one.values() if isinstance(value, dict | list)]
    inner = [part for value in parts for part in (value if isinstance(value, list) else [value])]
    return [pod for part in inner if isinstance(part, dict) for pod in pods(part)]


def test_kubernetes_has_the_same_services() -> None:
    there = built()
    names = {(one["kind"], one["metadata"]["name"]) for one in there}
    assert {
        ("RayCluster", "ray"),
        ("StatefulSet", "prefect"),
        ("StatefulSet", "mlflow"),
        ("Deployment", "worker"),
    } <= names
    claims = {name for kind, name in names if kind == "PersistentVolumeClaim"}
    services = {name for kind, name in names if kind == "Service"} | {"ray-head-svc"}  # which the operator makes
    for one in there:
        for pod in pods(one):
            templates = {claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", ())}
            volumes = {volume["name"] for volume in pod.get("volumes", ())} | templates
            for volume in pod.get("volumes", ()):
                assert volume.get("persistentVolumeClaim", {}).get("claimName") in {None, *claims}
            for container in [*pod["containers"], *pod.get("initContainers", ())]:
                assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes
                for variable in container.get("env", ()):
                    called = re.search(r"(?:@|//)([a-z-]+)[:/]\w", variable.get("value", ""))
                    assert not called or called[1] in services, variable
    cluster = next(one for one in there if one["kind"] == "RayCluster")["spec"]
    assert cluster["authOptions"] == {"mode": "token"} and cluster["rayVersion"] == version("ray")


def image() -> dict[str, str]:
    """The variables that the image sets."""
    return dict(re.findall(r"(?m)^(?:ENV|   ) (\w+)=(\S+)", (INFRA / "Dockerfile").read_text()))


def of_compose() -> dict[str, dict[str, str]]:
    """The variables of each service, the passwords not filled in."""
    return {name: one.get("environment", {}) for name, one in read("compose.yaml", INFRA)["services"].items()}


def of_kubernetes() -> dict[str, dict[str, str]]:
    """The variables of each container; of a secret's, that it is one."""
    found = [
        one for there in built() for pod in pods(there) for one in pod["containers"] + pod.get("initContainers", [])
    ]
    return {
        one["name"]: {variable["name"]: variable.get("value", "a secret") for variable in one.get("env", ())}
        for one in found
    }


OF_ONE_MACHINE = {
    "PATH",
    "AUTOSCALER_METRIC_PORT",  # ports that two clusters on a machine would both want
    "DASHBOARD_METRIC_PORT",
    "PREFECT_SERVER_API_PORT",
    "PREFECT__SERVER_FINAL",  # what the launchers set, which `fm up` leaves out
    "_MLFLOW_SERVER_ARTIFACT_ROOT",
    "_MLFLOW_SERVER_SERVE_ARTIFACTS",
    "_MLFLOW_SGI_NAME",
    "RAY_AUTH_MODE",  # on Kubernetes the operator's
}


@pytest.mark.parametrize("containers", [of_compose, of_kubernetes])
def test_the_containers_have_the_settings_of_fm_up(containers: Any) -> None:
    there, here = containers(), services(Path("/state"), Ports())
    same = {
        "prefect": ["prefect"],
        "mlflow": ["mlflow"],
        "ray": ["ray-head", "ray-worker"],
        "worker": ["worker", "deploy"],
    }
    for name, others in same.items():
        wanted = {
            setting: value
            for setting, value in here[name].environment.items()
            if setting not in {*OF_ONE_MACHINE, *caches(Path())} and "/state" not in value and HOST not in value
        }
        for other in others:
            given = image() | there[other]
            assert {setting: given.get(setting) for setting in wanted} == wanted, other
    assert {"PREFECT_API_URL", "MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_AUTH_MODE"} <= {*there["worker"]}
    told = {name: variables["FM_NOTIFY_URL"] for name, variables in there.items() if "FM_NOTIFY_URL" in variables}
    assert [*told] == ["deploy"] and told["deploy"] in (None, "a secret")  # for an empty one would remove the webhook


def test_what_is_deployed_lies_where_all_nodes_see_it() -> None:
    compose = read("compose.yaml", INFRA)["services"]
    there = {
        one["name"]: one
        for of in built()
        for pod in pods(of)
        for one in pod.get("initContainers", []) + pod["containers"]
    }
    assert compose["deploy"]["command"].split() == there["deploy"]["command"] == ["sh", "infra/deploy.sh"]
    assert "ln -s /shared/runs /fm/runs" in (INFRA / "Dockerfile").read_text()
    for name in ("deploy", "worker", "ray-head", "ray-worker"):
        assert "shared:/shared" in compose[name]["volumes"]
        assert {"name": "shared", "mountPath": "/shared"} in there[name]["volumeMounts"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_deploying_from_a_container_brings_an_empty_prefect_to_the_state_of_fm_up(
    tmp_path: Path, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.automations import FAILED, LOST
    from tasks.slots import LIMIT

    fm, state = tmp_path / "fm", tmp_path / "state"  # as the image has it: the project, and runs on a volume
    fm.mkdir()
    for name in ("prefect.yaml", "fm", "tasks", "flows", "infra"):
        (fm / name).symlink_to(INFRA.parent / name)
    (fm / "runs").symlink_to(tmp_path / "shared" / "runs")
    here = Services.at(state, ports)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    given = os.environ | here.environment() | {"PATH": path, "PYTHONPATH": str(fm)}
    monkeypatch.setenv("FM_START_S", "900")
    try:
        with held(state) as record:
            local.start_missing(record, ["prefect"], ports)
        assert ask(f"{here.prefect_api}/work_pools/filter", {}, timeout_s=60) == []
        for address in ("http://127.0.0.1:9/told", ""):  # the second time there is a pool, and nobody to tell
            given["FM_NOTIFY_URL"] = address
            done = subprocess.run(["sh", "infra/deploy.sh"], cwd=fm, env=given, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            pools, deployments, automations, limits = (
                ask(f"{here.prefect_api}/{what}/filter", {}, timeout_s=60)
                for what in ("work_pools", "deployments", "automations", "v2/concurrency_limits")
            )
            assert [(pool["name"], pool["type"]) for pool in pools] == [(POOL, "process")]
            wanted = yaml.safe_load((INFRA.parent / "prefect.yaml").read_text())["deployments"]
            assert {one["name"] for one in deployments} == {one["name"] for one in wanted}
            told = {one["name"] for one in automations}
            assert LOST in told and (FAILED in told) == bool(address) and LIMIT in {limit["name"] for limit in limits}
    finally:
        local.down(state)
    assert (fm / "runs").is_dir()


SECRET = re.compile(r"(?i)(?:password|secret_access_key|secret_key|_token|auth_string)\"?(?:, value)?[:=] *(.*)")
ELSEWHERE = re.compile(r"^\"?(fm:|postgres\w*)?\$[{(]")  # a variable's value


def own_passwords(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(("#", ";"))]
    return [value for value in SECRET.findall("\n".join(lines)) if not ELSEWHERE.match(value)]


def test_no_file_has_a_password_of_its_own() -> None:
    for file in [INFRA / "compose.yaml", INFRA / "mlflow-auth.ini", *(INFRA / "kuberay").glob("*.yaml")]:
        assert own_passwords(file.read_text()) == [], file.name
    for line in ("POSTGRES_PASSWORD: fm", "{name: RAY_AUTH_TOKEN, value: abc}", "admin_password = password1234"):
        assert own_passwords(line.replace(" =", "=")) != []


def test_the_image_is_the_lock_run_by_no_root() -> None:
    steps = [line for line in (INFRA / "Dockerfile").read_text().splitlines() if re.match("[A-Z]+ ", line)]
    kept = {line[1:] for line in (INFRA / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = [name for step in steps if step.startswith("COPY") for name in step.split()[1:-1] if name[:2] != "--"]
    assert {*copied} == kept and all((INFRA.parent / name).exists() for name in copied)
    assert "--require-hashes -r requirements.lock" in (INFRA / "Dockerfile").read_text()
    assert steps.index("USER fm") > max(number for number, step in enumerate(steps) if step.startswith(("RUN", "COPY")))

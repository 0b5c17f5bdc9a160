"""What starts a cluster elsewhere, as far as it can be tried here: Ray's schema, rules of KubeRay, the shell's eye."""

import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER = Path(__file__).parents[2] / "infra" / "cluster"


def read(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text())


def test_ray_takes_the_cluster() -> None:
    config = prepare_config(read("ray-cluster.yaml"))
    validate_config(config)
    assert all(pattern.startswith("/") for pattern in config["rsync_exclude"])  # fm/data is to come along


def test_the_job_keeps_rules_of_kuberay() -> None:
    job = read("rayjob.yaml")
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

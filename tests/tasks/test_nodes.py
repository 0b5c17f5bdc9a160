"""Which machine gets what: the emptiest, not one that only fails, and never again the one that failed it."""

import json
import os
import subprocess
import sys

import pytest

from tasks.nodes import Nodes

A_BAD_MACHINE = """
import collections, json, sys, time
from tasks import cluster

ray = cluster._ray()
from ray.cluster_utils import Cluster

small = {"num_cpus": 2, "object_store_memory": 80 * 2**20}
two = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
two.add_node(resources={"bad": 1}, **small)
ray.init(address=two.address, log_to_driver=False, logging_level="error")
bad = next(node["NodeID"] for node in ray.nodes() if "bad" in node["Resources"])

def work(item):
    import ray
    if ray.get_runtime_context().get_node_id() == bad:
        raise OSError(28, "No space left on device")
    time.sleep(0.1)
    return item

again = collections.Counter()
outcomes = list(cluster.ray_map(work, range(60), lost=lambda item, why: again.update([item])))
print(json.dumps([[outcome.value for outcome in outcomes], again.total()]))
ray.shutdown()
two.shutdown()
"""


class Cluster:
    """What Ray says of machines of these CPUs."""

    def __init__(self, **cpus: int) -> None:
        self.cpus = cpus

    def nodes(self) -> list[dict]:
        return [{"NodeID": name, "Alive": True, "Resources": {"CPU": cpus}} for name, cpus in self.cpus.items()]


def test_the_emptiest_machine_is_next() -> None:
    nodes = Nodes(Cluster(small=1, large=3).nodes, cpus=1, gpus=0)
    assert nodes.slots == 4
    assert sorted(nodes.choose(()) for _ in range(8)) == ["large"] * 6 + ["small"] * 2
    nodes.ended("small", failed=False)
    assert nodes.choose(()) == "small"


def test_a_machine_that_failed_it_is_avoided_and_one_that_only_fails_gets_nothing() -> None:
    nodes = Nodes(Cluster(a=2, b=2).nodes, cpus=1, gpus=0)
    assert [nodes.choose(["a"]) for _ in range(3)] == ["b"] * 3
    for _ in range(3):
        nodes.ended("b", failed=True)
    assert {nodes.choose(()) for _ in range(20)} == {"a"}
    nodes.ended("b", failed=False)  # a late success: it is given work again
    assert nodes.choose(()) == "b"


def test_machines_too_small_for_an_item_have_no_slots() -> None:
    nodes = Nodes(Cluster(a=1, b=4).nodes, cpus=2, gpus=0)
    assert nodes.slots == 2 and nodes.choose(()) == "b"
    assert Nodes(Cluster(a=1).nodes, cpus=0, gpus=1).choose(()) == ""  # Ray waits until there is one


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_a_bad_machine_fails_is_done_on_another_and_soon_no_more_is_given_to_it() -> None:
    command = (sys.executable, "-c", A_BAD_MACHINE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    values, again = json.loads(done.stdout.splitlines()[-1])
    assert values == [*range(60)]
    assert 1 <= again <= 12  # as many as it was given before it had failed three times

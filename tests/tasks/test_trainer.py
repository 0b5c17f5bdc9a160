"""What the trainer is made of; that it trains is tested where trainings are."""

import pytest
import torch.distributed as dist

from tasks import trainer


@pytest.mark.parametrize("backend", trainer.BACKENDS.values())
def test_workers_share_what_never_leaves_the_cpu_too(backend: str) -> None:
    """NCCL alone would refuse a coupling's table, and no test here has two GPUs to see it."""
    assert dist.BackendConfig(dist.Backend(backend)).get_device_backend_map()["cpu"] == "gloo"

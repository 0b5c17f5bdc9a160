"""The trainer of Ray Train as trainings here want it: no actors that nobody uses, and word of each lost worker."""

import time
from pathlib import Path
from typing import Any

from fm.files import write_json
from tasks import losses
from tasks.place import Place

LOSSES = 3  # of workers in a row, without a new checkpoint, that end a training
# By which a training's workers share tensors; some of a training's, as those of a coupling, never leave the CPU.
BACKENDS = {"GPU": "cpu:gloo,cuda:nccl", "CPU": "gloo"}


def trainer(work: Any, config: dict[str, Any], name: str, scratch: Path, place: Place, gpus: bool) -> Any:
    """Ray Train's trainer, whose `fit()` runs `work(config)` on every worker of the place; it writes into `scratch`,
    and leaves word of each loss there, as `losses.in_words` says it."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
    from ray.train.torch import TorchConfig, TorchTrainer

    class Trainer(TorchTrainer):
        """Starts no actors for what is not used here: each costs five CPU seconds in which the workers wait."""

        def _create_default_callbacks(self) -> list[Any]:
            # No Ray Data comes in, and a placement group ends with this process's job anyway.
            unused = {"DatasetsCallback", "PlacementGroupCleanerCallback"}
            callbacks = super()._create_default_callbacks()  # type: ignore[misc]
            return [c for c in callbacks if type(c).__name__ not in unused]

    class Telling(UserCallback):
        """Leaves word of each loss, which Ray mends without a word; in Ray's process on the driver's machine."""

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            if words := losses.in_words(worker_exceptions):
                write_json(scratch / f"loss-{time.time_ns()}.json", words)

    workers: Any = (place.fewest, place.workers) if place.fewest < place.workers else place.workers
    return Trainer(
        work,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus, resources_per_worker={"CPU": 1}),
        torch_config=TorchConfig(backend=BACKENDS["GPU" if gpus else "CPU"]),
        run_config=RunConfig(
            name=name,
            storage_path=str(scratch),
            failure_config=FailureConfig(max_failures=LOSSES - 1),
            callbacks=[Telling()],  # type: ignore[list-item]  # where Ray names the older kind
        ),
    )

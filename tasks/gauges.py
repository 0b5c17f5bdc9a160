"""What a worker reads off its machine: how busy that is, and what share of its GPUs' arithmetic the network uses."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import torch

from fm.models.cost import cost, peak_flops
from fm.recipe import Recipe


def node() -> str | None:
    """The number of this machine among those of the training, for the first worker on it; None for the others."""
    return os.environ.get("NODE_RANK", "0") if os.environ.get("LOCAL_RANK", "0") == "0" else None


def machine() -> dict[str, float]:
    """How busy this machine is since the last call, under the names that MLflow's own monitor uses."""
    import psutil

    memory = psutil.virtual_memory()
    read = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": 100 * memory.used / memory.total,
    }
    return read | (_gpus() if torch.cuda.is_available() else {})


def _gpus() -> dict[str, float]:
    """Of all GPUs of the machine; nothing where the driver does not say."""
    import pynvml

    read: dict[str, float] = {}
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        for number in range(pynvml.nvmlDeviceGetCount()):
            gpu = pynvml.nvmlDeviceGetHandleByIndex(number)
            memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
            read[f"gpu_{number}_utilization_percentage"] = float(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu)
            read[f"gpu_{number}_memory_usage_megabytes"] = memory.used / 1e6
            read[f"gpu_{number}_memory_usage_percentage"] = 100 * memory.used / memory.total
            read[f"gpu_{number}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000
    return read


class Speed:
    """Images a second as the network's FLOP a second: the forward passes that the objective's step takes for an image,
    whatever is computed twice.

    The forward pass is counted on a thread, because that loads torch's compiler (4 s); until then there are no values.
    """

    def __init__(self, recipe: Recipe, shape: tuple[int, ...], classes: int | None, gpus: int, gpu: str) -> None:
        self._peak = gpus * peak_flops(gpu)  # `gpu` as torch names it

        def count() -> int:
            with torch.device("meta"):
                model, objective = recipe.build(shape, classes)
            return cost(model, shape[1], shape[0]).training_flops(images=1, passes=objective.passes)

        self._counting = ThreadPoolExecutor(1, "flops").submit(count)

    def values(self, images_per_s: float) -> dict[str, float]:
        """`model_tflop_s` of all workers together, and `mfu`, its share of the known bf16 peak of their GPUs."""
        if not self._counting.done() or self._counting.exception():  # no gauge is worth a training
            return {}
        flop_s = self._counting.result() * images_per_s
        return {"model_tflop_s": flop_s / 1e12} | ({"mfu": flop_s / self._peak} if self._peak else {})

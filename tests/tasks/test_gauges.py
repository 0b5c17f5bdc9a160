import sys
import time
import types
from typing import Any

import pytest
import torch

from fm.models.cost import cost, peak_flops
from fm.recipe import Recipe
from tasks import gauges


def test_the_first_worker_of_each_machine_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gauges.node() == "0"  # without Ray
    monkeypatch.setenv("NODE_RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert gauges.node() == "3"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert gauges.node() is None


def test_a_machine_at_work_reads_as_busy() -> None:
    gauges.machine()
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        pass
    read = gauges.machine()
    assert 0 < read["cpu_utilization_percentage"] <= 100 and 0 < read["system_memory_usage_percentage"] < 100
    assert read["system_memory_usage_megabytes"] > 50


def test_all_gpus_of_the_machine_are_read_and_a_silent_driver_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nvml(types.ModuleType):
        NVMLError = OSError

        def nvmlInit(self) -> None: ...
        def nvmlDeviceGetCount(self) -> int:
            return 2

        def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
            return number

        def nvmlDeviceGetMemoryInfo(self, gpu: int) -> Any:
            return types.SimpleNamespace(used=1e9 * (gpu + 1), total=8e9)

        def nvmlDeviceGetUtilizationRates(self, gpu: int) -> Any:
            return types.SimpleNamespace(gpu=90 + gpu)

        def nvmlDeviceGetPowerUsage(self, gpu: int) -> int:
            return 300_000

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "pynvml", Nvml("pynvml"))
    read = gauges.machine()
    assert (read["gpu_0_utilization_percentage"], read["gpu_1_utilization_percentage"]) == (90, 91)
    assert (read["gpu_1_memory_usage_megabytes"], read["gpu_1_memory_usage_percentage"]) == (2000, 25)
    assert read["gpu_0_power_usage_watts"] == 300

    def silent(self: Nvml) -> None:
        raise OSError("no driver")

    monkeypatch.setattr(Nvml, "nvmlInit", silent)
    assert not [name for name in gauges.machine() if name.startswith("gpu_")]


def test_speed_is_three_forward_passes_an_image_and_a_share_of_the_known_peak() -> None:
    recipe = Recipe.load("tiny")
    speed = gauges.Speed(recipe, (3, 32, 32), None, gpus=2, gpu="NVIDIA H100 80GB HBM3")
    speed._counting.result()
    model, _ = recipe.build((3, 32, 32), None)
    flop_s = 3 * cost(model, 32).forward_flops * 1e6
    values = speed.values(1e6)
    assert values["model_tflop_s"] == pytest.approx(flop_s / 1e12)
    assert values["mfu"] == pytest.approx(flop_s / (2 * 989e12))
    unknown = gauges.Speed(recipe, (3, 32, 32), None, gpus=2, gpu="some card")
    unknown._counting.result()
    assert list(unknown.values(1.0)) == ["model_tflop_s"]


def test_cards_are_known_by_the_names_that_torch_gives_them() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3") == peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12 and peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA GeForce GTX 1080") == 0

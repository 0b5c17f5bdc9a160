"""What a training needs, counted; what is refused, and what is offered in its place."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from fm import footprint as module
from fm.errors import SettingsError
from fm.footprint import (
    ABOVE,
    GIB,
    Activations,
    activations,
    at_once,
    batch_that_fits,
    check_fits,
    fitting,
    footprint,
    lacking,
    sampling_bytes,
)
from fm.models import UNet
from fm.training import Training
from tests.fm.models.test_unet import SMALL

PLAIN = Training(total_images=1, batch_images=64)
HELD = Activations(kept=GIB, recomputed=GIB // 4)
MILLION = 10**6


class Chain(nn.Module):
    """Keeps the results of two exponentials and the input of the layer after them; parameters are not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        x = x.requires_grad_()
        return self.layer(x.exp().exp())


def test_activations_are_those_that_wait_for_the_backward_pass() -> None:
    assert activations(Chain(), (3, 2, 4)) == Activations(2 * 24 * 4, 2 * 24 * 4)
    found = activations(UNet(16, **SMALL), (3, 16, 16))
    assert 0.1 * found.kept < found.recomputed < 0.6 * found.kept
    assert found.of(PLAIN) == found.kept
    with torch.device("meta"):
        counted = activations(UNet(16, **SMALL), (3, 16, 16))
    assert counted.kept == pytest.approx(found.kept, rel=0.1)
    assert counted.recomputed == pytest.approx(found.recomputed, rel=0.1)
    sparing = PLAIN.model_copy(update={"checkpoint_activations": True, "precision": "bf16"})
    assert found.of(sparing) == found.recomputed // 2


def test_each_worker_holds_five_copies_or_its_share_of_them() -> None:
    need = footprint(MILLION, PLAIN, workers=4, image=100)
    assert (need.weights, need.gradients, need.optimiser, need.averages) == (4e6, 4e6, 8e6, 4e6)
    assert need.with_images(10) == 20_001_000 and need.images(20_000_950) == 9
    averages = {"ema_halflife_kimg": (1.0, 2.0), "ema_lengths": (0.05, 0.1)}
    assert footprint(MILLION, PLAIN.model_copy(update={"fsdp": True} | averages), workers=4).fixed == 8e6
    assert at_once(PLAIN, 3) == 22 and at_once(PLAIN.model_copy(update={"micro_batch_images": 5}), 3) == 5


@pytest.mark.parametrize(
    ("free_gib", "workers", "says"),
    [
        (20.5, 1, r"and 64.0 GiB for 64 images at once, 20.5 .*; add --set training.micro_batch_images=10$"),
        (0.6, 1, "add --set training.checkpoint_activations=true --set training.micro_batch_images=1$"),
        (0.01, 2, "GiB are free for each of 2 workers; take a smaller network, or more memory$"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(free_gib: float, workers: int, says: str) -> None:
    check_fits(MILLION, HELD, PLAIN, 2, "cpu", 33 * GIB)
    with pytest.raises(SettingsError, match=says):
        check_fits(MILLION, HELD, PLAIN, workers, "cpu", int(free_gib * GIB))


def test_fewer_workers_are_offered_where_they_would_fit() -> None:
    """Five copies of a GiB each, 3 GiB for each of four workers: twelve in all hold two. Shards would fit but for the
    first worker, which gathers four copies for a checkpoint."""
    settings = PLAIN.model_copy(update={"micro_batch_images": 1, "batch_images": 4})
    with pytest.raises(SettingsError, match=r"free for each of 4 workers; add --workers 2$"):
        check_fits(GIB // 4, Activations(GIB // 2, GIB // 2), settings, 4, "cpu", 3 * GIB)


def test_all_that_is_in_the_way_is_said_at_once_with_options_that_then_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 on a CPU without, and memory for one worker of two, whose images are twice as large in fp32."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    settings, free = PLAIN.model_copy(update={"precision": "bf16"}), 4 * GIB
    with pytest.raises(SettingsError, match=r"no bf16, and 5.0 GiB are needed for weights") as error:
        check_fits(GIB // 4, HELD, settings, 2, "cpu", free)
    assert error.value.mend == "add --set training.precision=fp32 --set training.micro_batch_images=1 --workers 1"
    asked = {"precision": "fp32", "micro_batch_images": 1}
    check_fits(GIB // 4, HELD, settings.model_copy(update=asked), 1, "cpu", 2 * free)


def test_shards_are_offered_where_they_would_fit_and_a_gpu_finds_its_own_micro_batch() -> None:
    check_fits(MILLION, HELD, PLAIN, 1, "cuda", 2 * GIB)
    with pytest.raises(SettingsError, match=r"18.6 GiB are needed for weights.* 16.0 GiB are free .*training.fsdp=tr"):
        check_fits(1000 * MILLION, HELD, PLAIN, 4, "cuda", 16 * GIB)
    odd = PLAIN.model_copy(update={"batch_images": 63})  # of which four workers have no equal shares
    with pytest.raises(SettingsError, match="take a smaller network, or more memory"):
        check_fits(1000 * MILLION, HELD, odd, 4, "cuda", 16 * GIB)


def test_a_network_that_cannot_fit_is_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def build() -> tuple[nn.Module, str]:
        made.append(torch.empty(0).device.type)
        return UNet(16, **SMALL), "objective"

    monkeypatch.setattr(module, "free_bytes", lambda device, workers: MILLION)
    with pytest.raises(SettingsError, match=r"training: 0.0 GiB are needed for weights.* for 64 images at once"):
        fitting(build, (3, 16, 16), PLAIN, 1, "cpu")
    assert made == ["meta"]


def test_the_memory_of_a_machine_is_shared_by_the_workers_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.workers_here(8) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert module.workers_here(8) == 2
    assert 0 < module.free_bytes("cpu", 64) < module.free_bytes("cpu", 1)


def test_bf16_is_refused_where_it_is_imitated(monkeypatch: pytest.MonkeyPatch) -> None:
    bf16 = PLAIN.model_copy(update={"precision": "bf16"})
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "amx_bf16": True})
    assert lacking(bf16, "cpu") == ""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "architecture": "x86_64"})
    assert lacking(PLAIN, "cpu") == lacking(PLAIN.model_copy(update={"precision": "tf32"}), "cpu") == ""
    assert lacking(bf16, "cpu") == "this CPU (no AVX-512 BF16, no AMX) has no bf16"
    with pytest.raises(SettingsError, match=r"training: this CPU .* has no bf16; add --set training.precision=fp32$"):
        check_fits(1, HELD, bf16, 1, "cpu", 100 * GIB)


class Widening(nn.Module):
    """Widens a picture of 4 bytes a value tenfold, and narrows it again."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(1, 10, 1), nn.Conv2d(10, 1, 1)

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        return self.narrow(self.wide(x).relu())


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_drawing_takes_what_lives_at_once(device: str) -> None:
    """Two wide pictures, before and after the relu; never the narrow one too, and no gradients."""
    with torch.device(device):
        model = Widening()
    side = 16
    assert sampling_bytes(model, (1, side, side)) == 4 * side**2 * (10 + 10 + 12 + 1)


def test_as_many_are_drawn_at_once_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Widening()
    each = 2 * sampling_bytes(model, (1, 16, 16))
    for free, most in ((7 * each + 1, 7), (100 * each, 64), (each // 2, 1)):
        monkeypatch.setattr(module, "free_bytes", lambda device, workers, free=free: free)
        assert batch_that_fits(model, (1, 16, 16), "cpu", 64) == most


def test_a_picture_of_256_px_is_drawn_within_what_is_stated() -> None:
    """By a small network in superres256's place: the process grows by no more than ABOVE allows for."""
    code = (
        "import torch; from fm.recipe import Recipe; from fm.footprint import sampling_bytes, size\n"
        "from fm.flow import Flow\n"
        "recipe = Recipe.load('superres256', ['model.channels=32', 'model.multiples=[1, 1, 1, 1, 1, 1]', "
        "'model.blocks=1', 'model.head_channels=32', 'model.attention_resolutions=[]'])\n"
        "model, objective = recipe.build((3, 256, 256), None)\n"
        "flow = Flow(model, objective, (3, 256, 256), low_size=64)\n"
        "low = torch.zeros(8, 3, 64, 64, dtype=torch.uint8)\n"
        "torch.set_num_threads(1); flow.sample(1, low=low[:1, :, :, :], nfe=1, method='euler')\n"
        "def status(name):\n"
        "    return int(next(l for l in open('/proc/self/status') if l.startswith(name)).split()[1])\n"
        "open('/proc/self/clear_refs', 'w').write('5')  # the peak counts from here\n"
        "before = status('VmRSS')\n"
        "assert flow.sample(8, low=low, nfe=1, method='euler', batch=8).shape == (8, 3, 256, 256)\n"
        "grown = (status('VmHWM') - before) * 1024\n"
        "print(grown / (7 * sampling_bytes(model, (3, 256, 256))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert 0.2 < float(done.stdout) < ABOVE, done.stdout

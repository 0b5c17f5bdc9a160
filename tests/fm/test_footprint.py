"""What a training needs, counted; what is refused, and what is offered in its place."""

import pytest
import torch
from torch import nn

from fm import footprint as module
from fm.errors import SettingsError
from fm.footprint import GIB, Activations, activations, at_once, check_memory, check_precision, fitting, footprint
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
    sparing = PLAIN.model_copy(update={"checkpoint_activations": True, "precision": "bf16"})
    assert found.of(sparing) == found.recomputed // 2


def test_each_worker_holds_five_copies_or_its_share_of_them() -> None:
    need = footprint(MILLION, PLAIN, workers=4, image=100)
    assert (need.weights, need.gradients, need.optimiser, need.averages) == (4e6, 4e6, 8e6, 4e6)
    assert need.with_images(10) == 20_001_000 and need.images(20_000_950) == 9
    settings = PLAIN.model_copy(update={"fsdp": True, "ema_halflife_kimg": (1.0, 2.0)})
    assert footprint(MILLION, settings, workers=4).fixed == 6e6
    assert at_once(PLAIN, 3) == 22 and at_once(PLAIN.model_copy(update={"micro_batch_images": 5}), 3) == 5


@pytest.mark.parametrize(
    ("free_gib", "workers", "says"),
    [
        (20.5, 1, r"and 64.0 GiB for 64 images at once, and 20.5 .*; set training.micro_batch_images=10$"),
        (0.6, 1, "set training.checkpoint_activations=true and training.micro_batch_images=1$"),
        (0.01, 2, "GiB are free for each of 2 workers; take a smaller network, or more memory$"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(free_gib: float, workers: int, says: str) -> None:
    check_memory(MILLION, HELD, PLAIN, 2, "cpu", 33 * GIB)
    with pytest.raises(SettingsError, match=says):
        check_memory(MILLION, HELD, PLAIN, workers, "cpu", int(free_gib * GIB))


def test_fewer_workers_are_offered_where_they_would_fit() -> None:
    """Five copies of a GiB each, 3 GiB for each of four workers: twelve in all hold two. Shards would fit but for the
    first worker, which gathers four copies for a checkpoint."""
    settings = PLAIN.model_copy(update={"micro_batch_images": 1, "batch_images": 4})
    with pytest.raises(SettingsError, match=r"free for each of 4 workers; take 2 workers$"):
        check_memory(GIB // 4, Activations(GIB // 2, GIB // 2), settings, 4, "cpu", 3 * GIB)


def test_shards_are_offered_where_they_would_fit_and_a_gpu_finds_its_own_micro_batch() -> None:
    check_memory(MILLION, HELD, PLAIN, 1, "cuda", 2 * GIB)
    with pytest.raises(SettingsError, match=r"needs 18.6 GiB for weights.* and 16.0 GiB are free .*training.fsdp=true"):
        check_memory(1000 * MILLION, None, PLAIN, 4, "cuda", 16 * GIB)


def test_a_network_that_cannot_fit_is_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def build() -> tuple[nn.Module, str]:
        made.append(torch.empty(0).device.type)
        return nn.Linear(1000, 1000), "objective"

    monkeypatch.setattr(module, "free_bytes", lambda device, workers: MILLION)
    with pytest.raises(SettingsError, match=r"training: needs 0.0 GiB for weights"):
        fitting(build, (3, 2, 2), PLAIN, 1, "cpu")
    assert made == ["meta"]


def test_the_memory_of_a_machine_is_shared_by_the_workers_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.workers_here(8) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert module.workers_here(8) == 2
    assert 0 < module.free_bytes("cpu", 64) < module.free_bytes("cpu", 1)


def test_bf16_is_refused_where_it_is_imitated(monkeypatch: pytest.MonkeyPatch) -> None:
    bf16 = PLAIN.model_copy(update={"precision": "bf16"})
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "amx_bf16": True})
    check_precision(bf16, "cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "architecture": "x86_64"})
    check_precision(PLAIN, "cpu")
    with pytest.raises(SettingsError, match=r"training.precision: this CPU .* has no bf16; take training.pre"):
        check_precision(bf16, "cpu")

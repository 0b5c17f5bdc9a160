"""What only a GPU can show: the loop, its checkpoints, its memory, two ranks, samples and noise on a real one."""

import math
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from fm import noise
from fm.checkpoints import Store, load_weights
from fm.data.batches import Batch
from fm.flow import Flow
from fm.likelihood import full_precision
from fm.models import UNet
from fm.models.dropout import dropout_at, kept
from fm.objectives import FlowMatching
from fm.parallel import ALONE, World
from fm.paths import OTPath
from fm.progress import Started
from fm.training import Training, train

GPU = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU on this machine")

SIZE, BATCH, STEPS = 32, 32, 12
SETTINGS: dict[str, Any] = {
    "batch_images": BATCH,
    "total_images": BATCH * STEPS,
    "learning_rate": 1e-3,
    "report_images": BATCH,
    "save_images": BATCH * STEPS // 2,
    "flips": True,
    "label_drop": 0.1,
}


def network(**changes: Any) -> UNet:
    """With all that the presets' networks have: attention, changes of size in blocks, labels, dropout."""
    torch.manual_seed(0)
    options = {"channels": 64, "multiples": (1, 2), "blocks": 1, "attention_resolutions": (16,), "head_channels": 32}
    model = UNet(SIZE, classes=3, **{**options, "dropout": 0.1, **changes})
    with torch.no_grad():  # no residual branch is the identity, as at the start
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.01)
    return model


def stream(settings: Training, world: World = ALONE) -> Any:
    def batches_from(start: int) -> Any:
        low, high = (settings.batch_images * r // world.size for r in (world.rank, world.rank + 1))
        for first in count(start, settings.batch_images):
            at = torch.arange(first + low, first + high)
            images = (noise.uniforms(7, "pictures", at % 100, (SIZE, SIZE, 3)) * 255).to(torch.uint8)
            yield Batch(images.permute(0, 3, 1, 2), at % 3, at % 100, at)

    return batches_from


def trained(
    folder: Path, device: str = GPU, stop: int = STEPS, world: World = ALONE, net: Any = None, **changes: Any
) -> tuple[nn.Module, list[Any]]:
    """The network and all events of a training that is told to stop after so many steps."""
    settings, polls, model = Training(**{**SETTINGS, **changes}), count(), net or network()
    events = train(
        model,
        FlowMatching(OTPath()),
        settings,
        stream(settings, world),
        Store(folder),
        world,
        stop=lambda: next(polls) >= stop,
        device=device,
    )
    return model, list(events)


def weights(of: nn.Module | dict[str, Tensor]) -> Tensor:
    tensors = of.state_dict() if isinstance(of, nn.Module) else of
    return torch.cat([tensors[name].flatten().double().cpu() for name in sorted(tensors)])


def apart(a: nn.Module | dict[str, Tensor], b: nn.Module | dict[str, Tensor]) -> float:
    """The norm of the difference of all weights over their norm."""
    return float((weights(a) - weights(b)).norm() / weights(a).norm())


PRECISIONS = pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])


@PRECISIONS
def test_the_same_run_twice_gives_the_same_weights(tmp_path: Path, precision: str) -> None:
    one, two = (trained(tmp_path / name, precision=precision)[0] for name in "ab")
    assert apart(one, two) == 0


@PRECISIONS
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, precision: str) -> None:
    whole, _ = trained(tmp_path / "whole", precision=precision)
    trained(tmp_path / "twice", stop=5, precision=precision)
    twice, events = trained(tmp_path / "twice", precision=precision)
    assert events[0].restored == f"resumed at {5 * BATCH} images"
    assert apart(whole, twice) == 0


def test_a_gpu_and_a_cpu_learn_the_same(tmp_path: Path) -> None:
    """Steps of stochastic descent part by what rounding grows to; the first few are close."""
    gpu, _ = trained(tmp_path / "gpu", stop=3)
    cpu, _ = trained(tmp_path / "cpu", "cpu", stop=3)
    assert apart(gpu, cpu) < 1e-4


def test_tf32_is_taken_only_where_it_is_asked_for(tmp_path: Path) -> None:
    plain, rounded = (trained(tmp_path / kind, precision=kind, stop=3)[0] for kind in ("fp32", "tf32"))
    assert 1e-5 < apart(plain, rounded) < 1e-2
    assert torch.backends.cudnn.allow_tf32 and not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_a_compiled_training_is_the_same_and_goes_on(tmp_path: Path) -> None:
    plain, _ = trained(tmp_path / "plain", stop=3)
    compiled, _ = trained(tmp_path / "compiled", stop=3, compile=True)
    assert apart(plain, compiled) < 1e-4
    torch.compiler.reset()
    trained(tmp_path / "again", stop=1, compile=True)
    again, _ = trained(tmp_path / "again", stop=2, compile=True)
    assert apart(compiled, again) < 1e-4  # not to the bit, as the others


@pytest.mark.slow
def test_compiled_blocks_are_computed_again_alike(tmp_path: Path) -> None:
    plain, _ = trained(tmp_path / "plain", stop=3)
    again, _ = trained(tmp_path / "again", stop=3, compile=True, checkpoint_activations=True)
    assert apart(plain, again) < 1e-4


def test_where_memory_is_short_parts_are_halved_and_the_training_goes_on(tmp_path: Path) -> None:
    wide = {"channels": 128, "dropout": 0.0}
    whole, (started, *_) = trained(tmp_path / "whole", net=network(**wide), batch_images=256, stop=4)
    assert isinstance(started, Started) and started.micro_batch_images == 256
    peak, total = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.6 * peak / total)
    try:
        less, (started, *_) = trained(tmp_path / "less", net=network(**wide), batch_images=256, stop=4)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert started.micro_batch_images in (128, 64, 32)
    assert apart(whole, less) < 1e-4


def test_two_ranks_on_one_gpu_hold_what_one_rank_holds(tmp_path: Path) -> None:
    mp.start_processes(_rank, (tmp_path,), 2, start_method="spawn")
    one, _ = trained(tmp_path / "one")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert apart(first, second) == 0
    assert apart(one, first) < 1e-4


def _rank(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model, _ = trained(folder / "two", world=World.current())
    torch.save(model.state_dict(), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_a_checkpoint_written_on_one_device_goes_on_on_the_other(tmp_path: Path) -> None:
    gpu, _ = trained(tmp_path, stop=2)
    assert apart(gpu, load_weights(tmp_path, "model")[0]) == 0
    cpu, events = trained(tmp_path, "cpu", stop=2)
    assert events[0].images_seen == 2 * BATCH and next(cpu.parameters()).device.type == "cpu"
    back, events = trained(tmp_path, stop=2)
    assert events[0].images_seen == 4 * BATCH and next(back.parameters()).device.type == GPU
    assert math.isfinite(events[1].loss)


@pytest.mark.parametrize("solver", [{"method": "midpoint", "nfe": 8}, {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5}])
def test_samples_and_likelihoods_are_a_cpus(solver: dict[str, Any]) -> None:
    """Samples without TF32; left to itself, torch rounds to it in convolutions."""
    flows = [
        Flow(network().to(device), FlowMatching(OTPath()), (3, SIZE, SIZE), ("a", "b", "c")) for device in (GPU, "cpu")
    ]
    with full_precision(torch.device(GPU)):
        gpu, cpu = (flow.draw(4, batch=4, **solver) for flow in flows)
    assert gpu.nfe == cpu.nfe
    torch.testing.assert_close(gpu.x.cpu(), cpu.x, rtol=0, atol=1e-4)
    images = (noise.uniforms(0, "images", torch.arange(4), (3, SIZE, SIZE)) * 255).to(torch.uint8)
    bits = [flow.bits_per_dim(images, **solver).bpd.cpu() for flow in flows]
    torch.testing.assert_close(*bits, rtol=0, atol=1e-4)


def test_noise_is_the_same_in_its_words_and_uniforms_and_close_in_its_normals() -> None:
    at = torch.arange(1000) * 2**33 + 5
    for draw in (noise.words, noise.uniforms):
        shape: Any = 16 if draw is noise.words else (16,)
        assert torch.equal(draw(3, "z", at, shape, GPU).cpu(), draw(3, "z", at, shape))
    on_gpu, on_cpu = (noise.draws(3, "z", at, (3, 64, 64)[1:], device) for device in (GPU, "cpu"))
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-5, atol=2e-6)


def test_dropout_drops_the_same() -> None:
    x, keys = torch.ones(4, 64, 9, 9), noise.words(0, "keys", torch.arange(4), 2).to(torch.int32)
    assert torch.equal(kept(x.to(GPU), keys.to(GPU), 0.3).cpu(), kept(x, keys, 0.3))
    with full_precision(torch.device(GPU)), torch.no_grad():
        outputs = []
        for device in (GPU, "cpu"):
            model, at = network(dropout=0.5).to(device), torch.arange(2)
            with dropout_at(model, 0, at):
                outputs.append(
                    model(torch.ones(2, 3, SIZE, SIZE, device=device), torch.full((2,), 0.5, device=device)).cpu()
                )
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-4)

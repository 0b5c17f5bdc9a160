"""The loop: same training for any number of ranks and any interruption, to the bit where the ranks are the same."""

import hashlib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from fm import noise
from fm.checkpoints import Saved, Store, load_weights
from fm.drawing import is_conditional
from fm.errors import Diverged, SettingsError
from fm.models import MLP, UNet
from fm.objectives import OBJECTIVES, FlowMatching
from fm.pairing import paired
from fm.parallel import ALONE, World
from fm.paths import OTPath
from fm.progress import Progress, Started
from fm.times import stratified
from fm.training import Training, train

SHAPE = (3, 8, 8)
TINY = {
    "batch_images": 12,
    "total_images": 96,
    "learning_rate": 1e-2,
    "warmup_images": 24,
    "schedule": "polynomial",
    "report_images": 24,
    "save_images": 48,
    "flips": True,
    "label_drop": 0.2,
    "ema_halflife_kimg": 0.05,
}
EXACT = Training(**{**TINY, "batch_images": 50, "total_images": 2000, "save_images": 10_000}, stratify=True)
COUPLED = Training(**TINY, coupling="minibatch_ot", coupling_block_images=24, micro_batch_images=5)
PARTS = Training(**TINY, micro_batch_images=3)
JUMPING = ("mean_flow", "shortcut")
KEEPING = Training(
    **{**TINY, "total_images": 240}, coupling="persistent_ot", coupling_block_images=24, coupling_noises=2
)


class Batch(NamedTuple):
    images: Tensor
    labels: Tensor
    indices: Tensor
    positions: Tensor


def stream(settings: Training, world: World = ALONE):
    """The contract of fm.data.batches on 40 pictures of one colour with some noise."""
    colours = noise.uniforms(7, "colours", torch.arange(40), (3, 1, 1))
    pictures = (colours * 200 + noise.uniforms(7, "grain", torch.arange(40), SHAPE) * 50).to(torch.uint8)

    def batches_from(start: int) -> Iterator[Batch]:
        low, high = (settings.batch_images * r // world.size for r in (world.rank, world.rank + 1))
        for first in itertools.count(start, settings.batch_images):
            positions = torch.arange(first + low, first + high)
            index = positions * 7 % 40
            yield Batch(pictures[index], index % 3, index, positions)

    return batches_from


def network(kind: str = "mlp", **changes) -> torch.nn.Module:
    torch.manual_seed(3)
    if kind == "mlp":
        return MLP(math.prod(SHAPE), **{"width": 16, "depth": 2, "classes": 3, **changes})
    options = {"channels": 32, "multiples": (1, 1), "blocks": 1, "attention_resolutions": (), "head_channels": 16}
    return UNet(SHAPE[1], classes=3, **{**options, **changes})


def run(
    folder: Path,
    settings: Training,
    model=None,
    stop=lambda: False,
    world: World = ALONE,
    store=None,
    name="flow_matching",
):
    """All events of one training, to its end."""
    model = network() if model is None else model
    store = store or Store(folder, "recipe", "data", settings.keep)
    objective = OBJECTIVES[name](OTPath())
    blocks = stream(settings.model_copy(update={"batch_images": settings.block_images}))
    batches_from = paired(stream(settings, world), blocks, settings, is_conditional(model), images=40)
    return list(train(model, objective, settings, batches_from, store, world, stop))


def test_noises_that_stay_with_their_images_are_refused_where_labels_are_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="would tell the labels of these; take minibatch_ot"):
        run(tmp_path, KEEPING, network())
    assert not any(tmp_path.iterdir())


def fingerprint(folder: Path) -> str:
    """SHA-256 over the bytes of weights, average and optimiser of the newest checkpoint."""
    newest = max(path for path in (folder / "checkpoints").iterdir() if path.name.isdigit())
    return "/".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(newest.glob("*.safetensors")))


def stop_after(steps: int):
    """True from the poll in that step on; the first poll comes before all steps."""
    calls = itertools.count()
    return lambda: next(calls) >= steps


def test_golden_loss_after_three_steps(tmp_path: Path) -> None:
    settings = Training(**{**TINY, "total_images": 36, "report_images": 12})
    losses = [event.loss for event in run(tmp_path, settings) if isinstance(event, Progress)]
    assert losses == pytest.approx([1.2095984, 1.1859088, 1.1953713], abs=1e-5)


def test_events_are_at_their_images(tmp_path: Path) -> None:
    started, *events = run(tmp_path, Training(**{**TINY, "ema_halflife_kimg": (0.05, 2), "ema_ramp": 0}))
    stated = {"ema": "half-life 0.05 kimg, 0.846745 a step", "ema_2kimg": "half-life 2 kimg, 0.99585 a step"}
    assert started == Started(0, "started at 0 images", 1, 12, stated)
    assert [e.images_seen for e in events if isinstance(e, Progress)] == [24, 48, 72, 96]
    assert [e.images_seen for e in events if isinstance(e, Saved)] == [48, 96]
    assert isinstance(events[-1], Saved)
    weights, lineage = load_weights(tmp_path)
    assert lineage == {"weights": events[-1].weights, "images_seen": 96}
    network().load_state_dict(weights)
    slow, _ = load_weights(tmp_path, "ema_2kimg")
    assert any(not torch.equal(slow[name], weights[name]) for name in weights)


def test_a_second_average_changes_nothing_of_the_first(tmp_path: Path) -> None:
    for kimg in ((0.05,), (0.05, 2.0)):
        run(tmp_path / str(len(kimg)), Training(**{**TINY, "ema_halflife_kimg": kimg}))
    (one, _), (two, _) = (load_weights(tmp_path / n) for n in "12")
    assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(SettingsError, match="two half-lives are the same"):
        run(tmp_path, Training(**{**TINY, "ema_halflife_kimg": (5, 5)}))


def test_loss_by_time_adds_up_to_the_loss_over_ranks_parts_and_resumes(tmp_path: Path) -> None:
    settings = Training(**{**TINY, "report_images": 96}, stratify=True, micro_batch_images=5)
    run(tmp_path, settings, stop=stop_after(3))
    (report,) = (event for event in run(tmp_path, settings) if isinstance(event, Progress))
    at = torch.arange(96)
    t = settings.times.at(stratified(noise.uniforms(0, "t", at, ()), at, 12), OTPath().t_max)
    shares = (t * 10).long().bincount(minlength=10) / 96
    assert torch.tensor(report.loss_by_t) @ shares == pytest.approx(report.loss, rel=1e-5)


def test_times_stay_float32_where_the_network_runs_in_bf16(tmp_path: Path) -> None:
    model, seen = network("unet"), {}

    def note(name: str):
        def hook(module, args, out) -> None:
            seen[name] = (*(x.dtype for x in args[:2]), out.dtype)

        return hook

    model.register_forward_hook(note("network"))
    model.time_embed.register_forward_hook(note("embedding"))
    model.middle_block[0].in_layers[2].register_forward_hook(note("convolution"))
    run(tmp_path, Training(**{**TINY, "total_images": 12, "precision": "bf16"}), model)
    assert seen["network"][:2] == seen["embedding"] == (torch.float32, torch.float32)
    assert seen["convolution"][-1] == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in model.parameters())


class Narrow(MLP):
    """Has memory for `room` images."""

    room = 5

    def forward(self, x, t, y=None):
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x, t, y)


def narrow(room: int, kind: type[Narrow] = Narrow) -> Narrow:
    torch.manual_seed(3)
    model = kind(math.prod(SHAPE), width=16, depth=2, classes=3)
    model.room = room
    return model


def test_the_micro_batch_that_fits_is_found_kept_and_changes_nothing(tmp_path: Path) -> None:
    found = run(tmp_path / "found", Training(**TINY), narrow(5), stop=stop_after(3))
    assert isinstance(found[0], Started) and found[0].micro_batch_images == 3
    (again, *_) = run(tmp_path / "found", Training(**TINY), narrow(12))  # what was found stays: to the bit the same
    assert isinstance(again, Started) and again.micro_batch_images == 3
    run(tmp_path / "given", Training(**TINY, micro_batch_images=3))
    assert fingerprint(tmp_path / "found") == fingerprint(tmp_path / "given")
    with pytest.raises(SettingsError, match="does not fit into memory with a single image"):
        run(tmp_path / "none", Training(**TINY), narrow(0))


class Later(Narrow):
    """Has memory for `room` images from its third call on only."""

    calls = 0

    def forward(self, x, t, y=None):
        self.calls += 1
        return super().forward(x, t, y) if self.calls > 2 else MLP.forward(self, x, t, y)


def test_no_memory_for_the_state_or_its_copy_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Store, "begin", full)
    with pytest.raises(SettingsError, match="memory is too short for the copy of the state that goes into"):
        run(tmp_path, Training(**TINY))
    monkeypatch.setattr("fm.training.Adam", full)
    with pytest.raises(SettingsError, match="memory is too short for weights, gradients"):
        run(tmp_path, Training(**TINY))


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    settings = Training(**{**TINY, "total_images": 2400, "report_images": 480, "save_images": 10_000})
    losses = [event.loss for event in run(tmp_path, settings, network(width=128)) if isinstance(event, Progress)]
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("kind", ["mlp", "unet"])
@pytest.mark.parametrize("steps", [1, 5])
def test_a_stopped_and_resumed_run_has_the_weights_of_one_never_stopped(tmp_path: Path, kind: str, steps: int) -> None:
    changes = {"dropout": 0.3} if kind == "unet" else {}
    settings = Training(**TINY)
    whole = run(tmp_path / "whole", settings, network(kind, **changes))
    first = run(tmp_path / "cut", settings, network(kind, **changes), stop=stop_after(steps))
    assert first[-1].images_seen == 12 * steps
    second = run(tmp_path / "cut", settings, network(kind, **changes))
    assert fingerprint(tmp_path / "whole") == fingerprint(tmp_path / "cut")
    reports = [
        [(e.images_seen, e.loss, e.grad_norm) for e in events if isinstance(e, Progress)]
        for events in (whole, first + second)
    ]
    assert reports[0] == reports[1]


def test_stopping_before_the_first_step_takes_none(tmp_path: Path) -> None:
    assert [e.images_seen for e in run(tmp_path, Training(**TINY), stop=lambda: True)] == [0]


def test_a_finished_run_is_not_touched(tmp_path: Path) -> None:
    settings = Training(**TINY)
    last = run(tmp_path, settings)[-1]
    store = Store(tmp_path, "recipe", "data")
    assert run(tmp_path, settings, store=store) == [last]
    assert store.restored == "resumed at 96 images" and store.images_seen == 96


def test_the_time_limit_counts_over_resumes(tmp_path: Path) -> None:
    settings = Training(**{**TINY, "total_images": 10**9, "save_images": 10**9, "max_seconds": 0.3})
    last = run(tmp_path, settings)[-1]
    assert last.images_seen > 0 and last.seconds >= 0.3
    assert run(tmp_path, settings) == [last]
    assert settings.finished(last.images_seen, last.seconds)


def test_micro_batches_change_rounding_only(tmp_path: Path) -> None:
    for limit in (None, 5):
        run(tmp_path / str(limit), Training(**TINY, micro_batch_images=limit), network().double())
    one, five = (load_weights(tmp_path / str(limit))[0] for limit in (None, 5))
    for name in one:
        torch.testing.assert_close(one[name], five[name], rtol=0, atol=1e-9)


def test_divergence_stops_before_the_weights_are_touched(tmp_path: Path) -> None:
    class Explodes(FlowMatching):
        def loss(self, model, x_1, *, t, z, y=None, cond=None):
            explode = float("nan") if model.steps == 2 else 1.0
            model.steps += 1
            return super().loss(model, x_1, t=t, z=z, y=y) * explode

    settings = Training(**{**TINY, "save_images": 12})
    model = network()
    model.steps = 0
    store = Store(tmp_path)
    says = r"loss is nan.* after 24 images \(indices 8, 15, 22.*at 24 images is unharmed"
    with pytest.raises(Diverged, match=says) as raised:
        list(train(model, Explodes(OTPath()), settings, stream(settings), store))
    assert raised.value.images_seen == 24 and raised.value.indices == [n * 7 % 40 for n in range(24, 36)]
    saved, lineage = load_weights(tmp_path, "model")
    assert lineage["images_seen"] == 24
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved[name])


def test_unknown_names_and_small_batches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="did you mean 'polynomial'"):
        run(tmp_path, Training(**{**TINY, "schedule": "polynomal"}))
    with pytest.raises(SettingsError, match="did you mean 'minibatch_ot'"):
        run(tmp_path, Training(**{**TINY, "coupling": "minibatch-ot"}))
    with pytest.raises(SettingsError, match="cannot be shared by 20 workers"):
        run(tmp_path, Training(**TINY), world=World(0, 20))
    with pytest.raises(SettingsError, match=r"training\.compile: the targets of jumps .* set it to false"):
        run(tmp_path, Training(**TINY, compile=True), network(jumps=True), name="shortcut")


def worker(rank: int, size: int, folder: str) -> None:
    """Whole, interrupted (one rank alone is told), resumed, so too where rank 1 gets short of memory on the way; and in
    float64, with coupled noises, with dropout and with jumps too."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{size}", rank=rank, world_size=size)
    world, place = World.current(), Path(folder) / str(size)
    settings = Training(**TINY)
    run(place / "whole", settings, world=world)
    events = run(place / "cut", settings, world=world, stop=stop_after(5) if rank == size - 1 else lambda: False)
    assert events[-1].images_seen == 60
    # Only rank 0's weights count: the others receive them.
    other = network() if rank == 0 else MLP(math.prod(SHAPE), width=16, depth=2, classes=3)
    run(place / "cut", settings, other, world=world)
    run(place / "exact", EXACT, network().double(), world=world)
    run(place / "moved", EXACT, network().double(), world=world, stop=stop_after(17))
    run(place / "coupled", COUPLED, network().double(), world=world)
    run(place / "dropout", PARTS, network("unet", dropout=0.3).double(), world=world)
    alone = network(classes=None).double()
    run(place / "kept", KEEPING, alone, world=world, stop=stop_after(9))
    run(place / "kept", KEEPING, alone, world=world)
    for name in JUMPING:
        run(place / name, PARTS, network("unet", jumps=True).double(), world=world, name=name)
    run(place / "short", settings, narrow(2, Later) if rank == 1 else network(), world=world)
    run(place / "short-cut", settings, narrow(2, Later) if rank == 1 else network(), world=world, stop=stop_after(5))
    (again, *_) = run(place / "short-cut", settings, world=world)
    assert again.images_seen == 60 and again.micro_batch_images <= 2
    dist.destroy_process_group()


def test_two_and_three_processes_resume_to_the_bit_and_equal_one(tmp_path: Path) -> None:
    whole = COUPLED.model_copy(update={"micro_batch_images": None})
    kinds = {"exact": EXACT, "coupled": whole, "moved": EXACT, "dropout": Training(**TINY)}
    for kind, settings in kinds.items():
        model = network("unet", dropout=0.3) if kind == "dropout" else network()
        run(tmp_path / "1" / kind, settings, model.double())
    run(tmp_path / "1" / "kept", KEEPING, network(classes=None).double())
    for name in JUMPING:
        run(tmp_path / "1" / name, Training(**TINY), network("unet", jumps=True).double(), name=name)
    for size in (2, 3):
        mp.start_processes(worker, args=(size, str(tmp_path)), nprocs=size, start_method="fork")
        for place in ("whole", "cut"), ("short", "short-cut"):
            assert len({fingerprint(tmp_path / str(size) / name) for name in place}) == 1
        assert run(tmp_path / str(size) / "moved", EXACT, network().double())[0].images_seen == 17 * 50
        for kind in (*kinds, "kept", *JUMPING):
            one, many = (load_weights(tmp_path / str(n) / kind)[0] for n in (1, size))
            for name in one:
                torch.testing.assert_close(one[name], many[name], rtol=0, atol=1e-9)
    run(tmp_path / "apart", Training(**TINY), network().double())
    coupled, apart = (load_weights(tmp_path / place)[0] for place in ("1/coupled", "apart"))
    assert any((coupled[name] - apart[name]).abs().max() > 1e-4 for name in coupled)

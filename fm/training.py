"""The training loop, top to bottom: a generator that reports nothing itself; who runs it reads its events.

One clock, `images_seen`: rate, average, randomness and place in the data follow from it, so a resume is one number.
Everything random is drawn by stream position (`fm.noise`), hence equal for any number of ranks.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import BeforeValidator, Field
from torch import nn

from fm.arithmetic import as_asked, backward
from fm.checkpoints import Saved, Store
from fm.couplings import COUPLINGS, PERSISTENT, coupling
from fm.data import Order, order_of
from fm.drawing import Inputs, drawn, is_conditional
from fm.ema import averages
from fm.ema import check as check_averages
from fm.errors import Diverged, SettingsError, member
from fm.memory import keep_freed
from fm.microbatch import most_that_fit, room_for
from fm.models.dropout import dropout_at
from fm.models.recomputing import blocks, recompute_activations
from fm.objectives import Objective
from fm.optimizer import Adam
from fm.parallel import ALONE, Gradients, World, parts
from fm.progress import TENTHS, Clock, Progress, Started, by_tenth, due
from fm.schedules import SCHEDULES
from fm.settings import Settings
from fm.sharding import shard
from fm.state import State
from fm.times import AnyTimes, Uniform

T = TypeVar("T")


class Training(Settings):
    """How a network is trained; all counts are in images, batch sizes are global."""

    seed: int = Field(
        0, ge=0, le=2**31 - 1, title="Seed", description="of weights, data order and all noise, 0 to 2,147,483,647"
    )
    batch_images: int = Field(
        256, ge=1, le=1_000_000, title="Batch", description="images in one step, over all workers together, from 1"
    )
    micro_batch_images: int | None = Field(
        None,
        ge=1,
        title="Micro-batch",
        description="most images a worker holds at once, from 1, halved while memory is short; empty = its whole share",
    )
    window_shards: int | None = Field(
        None,
        ge=1,
        title="Window of shards",
        description="shards that are mixed and open at once, from 1; empty = all samples are permuted",
    )
    initial_weights: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        title="Initial weights",
        description="SHA-256 of the weights in RUN/initial.safetensors that training begins with; empty = fresh ones",
    )
    drawn_by: str | None = Field(
        None,
        pattern="^[0-9a-f]{16}$",
        title="Drawn by",
        description="digest of how the images were drawn, each from a noise of its own, as `fm reflow` says; "
        "empty = real images",
    )
    total_images: int = Field(ge=0, title="Images", description="images seen when training ends, from 0")
    max_seconds: float | None = Field(
        None, gt=0, title="Time limit", description="seconds of training, resumes included, above 0; empty = no limit"
    )
    learning_rate: float = Field(
        2e-4, gt=0, le=1, title="Learning rate", description="of Adam, at its peak, above 0, at most 1"
    )
    schedule: str = Field(
        "constant",
        title="Schedule",
        description="course of the learning rate after the warm-up",
        json_schema_extra={"enum": list(SCHEDULES)},
    )
    warmup_images: int = Field(0, ge=0, title="Warm-up", description="images over which the rate rises, from 0")
    clip_norm: float | None = Field(
        1.0, gt=0, title="Clipping", description="largest gradient norm, above 0; empty = no clipping"
    )
    ema_halflife_kimg: Annotated[
        tuple[Annotated[float, Field(ge=0)], ...], BeforeValidator(lambda x: (x,) if isinstance(x, int | float) else x)
    ] = Field(
        (500.0,),
        min_length=1,
        max_length=16,
        title="EMA half-lives",
        description="of the averaged weights, in thousands of images, from 0; samples are of the first",
    )
    ema_ramp: float = Field(
        0.1,
        ge=0,
        le=1,
        title="EMA ramp",
        description="largest half-life as a share of the images seen, 0 to 1; 0 = no cap",
    )
    ema_lengths: tuple[Annotated[float, Field(ge=0.005, le=0.28)], ...] | None = Field(
        None,
        max_length=8,
        title="EMA lengths",
        description="of averages by a power function, as shares of the training, 0.005 to 0.28, from whose checkpoints "
        "`fm ema` makes those of any length afterwards, such as 0.05 and 0.1; empty = none",
    )
    precision: Literal["fp32", "tf32", "bf16"] = Field(
        "fp32",
        title="Precision",
        description="of the network's arithmetic; weights, time and loss stay fp32; tf32 is fp32 on a CPU",
    )
    compile: bool = Field(
        False,
        title="Compile",
        description="on a GPU, for minutes at the start: a faster step, in less memory, that repeats but for rounding",
    )
    flips: bool = Field(False, title="Flips", description="half of the images are mirrored left to right")
    label_drop: float = Field(
        0.0, ge=0, le=1, title="Label drop", description="share of labels hidden, for guidance, 0 to 1"
    )
    times: AnyTimes = Field(Uniform(), title="Times", description="law of the training time t")
    stratify: bool = Field(
        False, title="Stratified times", description="the times of a batch are spread evenly over their law"
    )
    coupling: str = Field(
        "independent",
        title="Coupling",
        description="which noise goes with which image",
        json_schema_extra={"enum": list(COUPLINGS)},
    )
    coupling_block_images: int | None = Field(
        None,
        ge=1,
        le=65_536,
        title="Coupling block",
        description="images of the stream among which noises are matched, 1 to 65,536; empty = the batch",
    )
    coupling_noises: int | None = Field(
        None,
        ge=1,
        le=64,
        title="Kept noises",
        description="that each image has for life in the persistent coupling, 1 to 64; empty = one",
    )
    report_images: int = Field(10_000, ge=1, title="Report every", description="images between two reports, from 1")
    save_images: int = Field(500_000, ge=1, title="Save every", description="images between two checkpoints, from 1")
    keep: int = Field(3, ge=1, le=1000, title="Keep", description="newest checkpoints kept, 1 to 1000")
    keep_every_images: int | None = Field(
        None, ge=1, title="Keep every", description="images between checkpoints kept for good, from 1; empty = none"
    )
    checkpoint_activations: bool = Field(
        False,
        title="Checkpoint activations",
        description="the backward pass computes blocks anew: less memory, slower",
    )
    fsdp: bool = Field(
        False, title="FSDP", description="each worker holds a shard of weights, averages and optimiser, not the whole"
    )
    threads: int = Field(
        1,
        ge=1,
        le=1024,
        title="Threads",
        description="CPU threads of each worker, 1 to 1024; their number changes last bits",
    )

    @property
    def block_images(self) -> int:
        """Stream positions in one block of the coupling."""
        return self.coupling_block_images or self.batch_images

    def rate(self, images_seen: int) -> float:
        """The learning rate of the step that starts at `images_seen`."""
        schedule = member(self.schedule, SCHEDULES, "schedule", where="training.schedule")
        return schedule(images_seen, self.total_images, self.warmup_images, self.learning_rate)

    def order(self, sizes: Sequence[int]) -> Order:
        """The order of a data set whose shards hold `sizes` samples."""
        return order_of(sizes, self.seed, self.window_shards)

    def finished(self, images_seen: int, seconds: float) -> bool:
        """Whether a run that stands there has nothing left to do."""
        return images_seen >= self.total_images or seconds >= (self.max_seconds or math.inf)


def train(
    model: nn.Module,
    objective: Objective,
    settings: Training,
    batches_from: Callable[[int], Iterator[Any]],
    store: Store,
    world: World = ALONE,
    stop: Callable[[], bool] = lambda: False,
    device: str | torch.device = "cpu",
) -> Iterator[Started | Progress | Saved]:
    """Trains the model in place, from the store's newest checkpoint on -> its events, the last one a Saved.

    The state is restored before this returns, so records can be cut to `store.images_seen`. `batches_from(images_seen)`
    yields this rank's share of each global batch (images uint8, or floats as they are; labels; indices; positions; of
    pairs the small pictures `low`).
    Dropout is drawn by stream position too where it is `fm.models.dropout`'s; torch's own follows torch's generator.
    `stop` is polled once a step; when it is true on any rank, all leave at the same step with a checkpoint.

    Raises: Diverged before the weights are touched, if loss or gradient is not finite or the loss a million times its
    lowest; CheckpointError; SettingsError.
    """
    check(settings, world, objective.jumps, is_conditional(model))
    torch.set_num_threads(settings.threads)
    keep_freed()
    with room_for("weights, gradients, moments and averages"):
        placed(model.train(), settings, world, device)
        gradients = Gradients(model, world, signals={"losses": 2 * TENTHS, "leave": 1, "written": 1, "halved": 1})
        kept = averages(model, settings.ema_halflife_kimg, settings.ema_ramp, settings.ema_lengths or ())
        state = State(model, Adam(model, gradients), kept)
        state.kept = getattr(batches_from, "kept", None)
        restored = state.whole(world.first)
        world.once(lambda: store.restore_newest_good(restored))
        state.share(restored, world)
    return steps(state, gradients, objective, settings, batches_from, store, world, stop)


def placed(model: nn.Module, settings: Training, world: World, device: str | torch.device) -> None:
    """The network on the device, whole or this rank's shards of it."""
    if settings.checkpoint_activations:
        recompute_activations(model)
    if settings.fsdp and world.size > 1:
        shard(model, blocks(model), device)
    else:
        model.to(device)
    if settings.compile and torch.device(device).type == "cuda":
        model.to(memory_format=torch.channels_last)  # as cuDNN wants images; slower where it is not compiled
        model.compile()


def check(settings: Training, world: World, jumps: bool = False, conditional: bool = False) -> None:
    """The rules that no single field can hold, for an objective that `jumps` and a `conditional` network too."""
    member(settings.schedule, SCHEDULES, "schedule", where="training.schedule")
    coupling(settings.coupling)
    if settings.fsdp and settings.compile:
        raise SettingsError("FSDP is not compiled", where="training.compile", mend="set one of both to false")
    if jumps and (settings.fsdp or settings.compile):
        name = "fsdp" if settings.fsdp else "compile"
        what = "the targets of jumps are computed on parts of the batch, neither sharded nor compiled"
        raise SettingsError(what, f"training.{name}", "set it to false")
    if settings.batch_images < world.size:
        raise SettingsError(
            f"a batch of {settings.batch_images} images cannot be shared by {world.size} workers",
            where="training.batch_images",
            mend="use a larger batch or fewer workers",
        )
    if settings.fsdp and settings.batch_images % world.size:
        raise SettingsError(
            f"with FSDP {world.size} workers take equal shares, and {settings.batch_images} images have none",
            where="training.batch_images",
            mend=f"choose a multiple of {world.size}, or other workers",
        )
    check_averages(settings)
    if settings.coupling_noises and settings.coupling not in PERSISTENT:
        what = f"noises that images keep are of the coupling {' or '.join(PERSISTENT)}"
        raise SettingsError(what, "training.coupling_noises", "leave it empty")
    if conditional and settings.coupling in PERSISTENT:
        what = "noises that stay with their images would tell the labels of these"
        raise SettingsError(what, "training.coupling", "take minibatch_ot, which stays within a label")
    if settings.drawn_by and (settings.flips or settings.coupling != "independent"):
        name, due = ("flips", "false") if settings.flips else ("coupling", "independent")
        raise SettingsError("each image goes with the noise that it was drawn from", f"training.{name}", f"set {due}")
    block, batch = settings.block_images, settings.batch_images
    if block % batch and batch % block:
        raise SettingsError(
            f"a block of {block} images and a batch of {batch} do not divide one another",
            where="training.coupling_block_images",
            mend="choose a multiple or a divisor of the batch",
        )


def steps(
    state: State,
    gradients: Gradients,
    objective: Objective,
    settings: Training,
    batches_from: Callable[[int], Iterator[Any]],
    store: Store,
    world: World,
    stop: Callable[[], bool],
) -> Iterator[Started | Progress | Saved]:
    """One step after another until all images are seen, time is up, or a rank was told to stop."""
    model, batch_images = state.model, settings.batch_images
    batches = batches_from(state.images_seen)
    clock, started, writing = Clock(state), False, False
    share = -(-batch_images // world.size)
    micro_batch = min(share, settings.micro_batch_images or share, state.micro_batch_images or share)
    arithmetic = partial(as_asked, gradients.buffer.device, tf32=settings.precision == "tf32")
    inputs = partial(drawn, model=model, objective=objective, settings=settings)
    coming: Any = None  # on a GPU the next batch, and in `ready` the inputs of its parts
    ready: list[Inputs] = []

    def leaving() -> bool:
        return stop() or clock.seconds() >= (settings.max_seconds or math.inf)

    def accumulate(batch: Any, early: bool, images: int) -> None:
        gradients.zero()
        cut = parts(len(batch.positions), images)
        for number, part in enumerate(cut):
            x_1, told = ready[number] if ready and images == micro_batch else inputs(batch, part)
            with arithmetic(), dropout_at(model, settings.seed, batch.positions[part]):
                with torch.autocast(x_1.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                    loss = objective.loss(model, x_1, **told)
                if early and part == cut[-1]:
                    gradients.exchange_early()
                backward(loss.sum() / batch_images, settings.compile)
            gradients.signal("losses", by_tenth(loss.detach(), told["t"]))

    leave = world.any(leaving())
    while state.images_seen < settings.total_images and not leave:
        rate = settings.rate(state.images_seen)
        batch, coming = coming or next(batches), None
        for early in (started, False):  # a second time if memory got short on a rank while sums were under way
            # Shards are gathered by all ranks together: none may try a smaller part alone.
            work, least = partial(accumulate, batch, early), micro_batch if gradients.sharded else 1
            fits = most_that_fit(work, micro_batch, least)
            gradients.signal("halved", fits < micro_batch)
            gradients.signal("leave", leaving())
            gradients.signal("written", store.written)
            ready.clear()
            if gradients.buffer.is_cuda and not coming and state.images_seen + batch_images < settings.total_images:
                # While the GPU still works: later it would wait for hundreds of small kernels to be started.
                coming = next(batches)
                with suppress(torch.OutOfMemoryError):  # then they are drawn in their turn
                    ready += [inputs(coming, part) for part in parts(len(coming.positions), micro_batch)]
            signals = gradients.reduce()
            if not gradients.spoiled:
                break
            ready.clear()
        if signals["halved"][0] > 0:  # from the next step on all hold the same, whoever has less memory
            micro_batch = min(world.gather(fits))
            ready.clear()
        state.micro_batch_images = micro_batch if micro_batch < share else None
        if not started:
            yield start(state, settings, store, world, micro_batch)
            started = True
        norm = gradients.clip(settings.clip_norm)
        if not math.isfinite(norm) or not clock.count(signals["losses"]):
            raise diverged(state, batch, norm, sum(signals["losses"][:TENTHS]) / batch_images, world, store)
        state.images_seen += batch_images
        state.optimizer.step(rate, number=state.images_seen // batch_images)
        for average in state.averages.values():
            average.update(model, state.images_seen, batch_images)
        leave = signals["leave"][0] > 0
        over = settings.finished(state.images_seen, clock.seconds())
        if over or due(state.images_seen, batch_images, settings.report_images):
            yield clock.report(rate, norm)
        last = leave or state.images_seen >= settings.total_images  # unlike `over` the same on every rank
        saving = not last and due(state.images_seen, batch_images, settings.save_images)
        if writing and (signals["written"][0] > 0 or saving or last):
            yield world.once(store.finish)
            writing = False
        if saving:
            state.seconds = clock.seconds()
            hand_over(state, store.begin, world)
            writing = True
    state.seconds = clock.seconds()
    yield hand_over(state, store.save, world)


def hand_over(state: State, write: Callable[[State], T], world: World) -> T:
    """What `write` made of the whole state on rank 0."""
    copied = room_for("the copy of the state that goes into the checkpoint")
    whole = copied(state.whole)(world.first)
    return world.once(copied(partial(write, whole)))


def start(state: State, settings: Training, store: Store, world: World, micro_batch: int) -> Started:
    stated = {name: average.stated(settings.batch_images) for name, average in state.averages.items()}
    return Started(state.images_seen, store.restored, world.size, micro_batch, stated)


def diverged(state: State, batch: Any, norm: float, loss: float, world: World, store: Store) -> Diverged:
    """What to raise on every rank, with the global batch's indices and the checkpoint to go back to."""
    indices = [index for share in world.gather(batch.indices.tolist()) for index in share]
    last = world.once(store.settle)
    shown = ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")
    error = Diverged(
        f"the loss is {loss:.3g} and the gradient's norm {norm:.3g} in the step after {state.images_seen:,} images "
        f"(indices {shown})",
        where="training",
        mend="lower the learning rate or clip gradients; "
        + (f"the checkpoint at {last.images_seen:,} images is unharmed" if last else "there is no checkpoint yet"),
    )
    error.images_seen, error.indices = state.images_seen, indices
    return error

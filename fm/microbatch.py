"""How many images a worker holds at once: the most that fit, found by trying; and what to say if nothing fits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from fm.errors import SettingsError


def most_that_fit(work: Callable[[int], None], most: int, least: int = 1) -> int:
    """The first of `most`, its half, its quarter and so on to `least` at which work(images) has memory enough.

    `work` is run again after each failure, so it starts anew whatever it adds up.

    Raises: SettingsError if even `least` is too much.
    """
    images = most
    while not _fits(work, images):
        if images <= least:
            count = "a single image" if images == 1 else f"{images} images"
            fewer = "" if images == 1 else "set training.micro_batch_images lower, "
            raise SettingsError(
                f"the network does not fit into memory with {count}",
                where="training",
                mend=f"{fewer}set training.checkpoint_activations=true, or take a smaller network or a larger device",
            )
        images = max(least, -(-images // 2))
    return images


@contextmanager
def room_for(what: str) -> Iterator[None]:
    """Inside, memory that is too short for `what` is said in one line.

    Raises: SettingsError.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_memory(error):
            raise
        raise SettingsError(
            f"memory is too short for {what}",
            where="training",
            mend="take a smaller network, fewer averages or a larger device",
        ) from None


def _fits(work: Callable[[int], None], images: int) -> bool:
    try:
        work(images)
        return True
    except RuntimeError as error:
        if not _is_memory(error):
            raise
    # Outside of the handler, where the failed step's tensors are no longer held by its traceback.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def _is_memory(error: Exception) -> bool:
    """CUDA and Python have a class for it, the CPU's allocator a message."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)

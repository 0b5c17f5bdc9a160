"""How many images a worker holds at once: the most that fit, found by trying."""

from collections.abc import Callable

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


def _fits(work: Callable[[int], None], images: int) -> bool:
    try:
        work(images)
        return True
    except RuntimeError as error:
        # CUDA has a class for it, the CPU's allocator a message.
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
    # Outside of the handler, where the failed step's tensors are no longer held by its traceback.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False

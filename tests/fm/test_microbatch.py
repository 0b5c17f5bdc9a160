"""What fits is found by halving, on real allocations too; other errors are not memory."""

import resource
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from fm.errors import SettingsError
from fm.microbatch import most_that_fit, room_for


@pytest.mark.parametrize(("room", "tried"), [(100, [12]), (11, [12, 6]), (3, [12, 6, 3]), (1, [12, 6, 3, 2, 1])])
def test_halved_until_it_fits(room: int, tried: list[int]) -> None:
    calls = []

    def work(images: int) -> None:
        calls.append(images)
        if images > room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert most_that_fit(work, 12) == tried[-1] and calls == tried


def test_none_goes_below_the_least() -> None:
    def work(images: int) -> None:
        if images > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert most_that_fit(work, 12, least=4) == 4
    with pytest.raises(SettingsError, match=r"with 6 images; set training.micro_batch_images lower, set"):
        most_that_fit(work, 12, least=6)


def test_no_room_for_one_is_the_users_and_other_errors_are_not_memory() -> None:
    def full(images: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def wrong(images: int) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(SettingsError, match="training: the network does not fit into memory with a single image"):
        most_that_fit(full, 4)
    with pytest.raises(RuntimeError, match="shapes differ"):
        most_that_fit(wrong, 4)


def limited(_: int) -> None:
    """In a process that may have 512 MiB more than it has now, at 64 MiB an image."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    room = pages * resource.getpagesize() + 2**29
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    assert most_that_fit(lambda images: torch.zeros(images, 2**24).sum(), 32) in (4, 8)
    for take in (partial(torch.zeros, 2**28), partial(bytearray, 2**30)):
        with pytest.raises(SettingsError, match="training: memory is too short for the weights; take"):
            room_for("the weights")(take)()
    with pytest.raises(RuntimeError, match="shapes differ"), room_for("the weights"):
        raise RuntimeError("shapes differ")


def test_a_real_allocation_that_fails_is_seen() -> None:
    mp.start_processes(limited, nprocs=1, start_method="fork")

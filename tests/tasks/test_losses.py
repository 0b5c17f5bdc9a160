"""Errors out of Ray's wrappers, and losses told from work that failed."""

import torch.distributed as dist

from fm.errors import DataError
from tasks import losses


def test_the_users_error_is_found_inside_any_wrapper() -> None:
    inner = DataError("wrong", "there")
    outer, group = RuntimeError("wrapped"), RuntimeError("group")
    outer.cause = inner  # type: ignore[attr-defined]
    group.worker_failures = {0: RuntimeError("connection lost"), 1: outer}  # type: ignore[attr-defined]
    assert losses.unwrapped(group) is inner
    assert losses.unwrapped(ValueError("ours")).args == ("ours",)


class Gone(Exception): ...


Gone.__module__ = "ray.exceptions"


def test_a_loss_is_told_from_work_that_failed() -> None:
    def group(*each: Exception) -> RuntimeError:
        error = RuntimeError("group")
        error.worker_failures = dict(enumerate(each))  # type: ignore[attr-defined]
        return error

    gone, heard = Gone("died"), RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer")
    assert losses.lost(group(heard, gone)) is gone
    assert losses.lost(group(heard)) is heard and losses.lost(gone) is gone
    assert losses.lost(group(RuntimeError("shapes differ"))) is None
    assert losses.lost(group(gone, DataError("no such file"))) is None
    assert losses.lost(group(ValueError("a bug"), heard)) is None  # which the others only heard of
    at_meeting = dist.DistNetworkError("failed to connect")
    assert losses.lost(at_meeting) is at_meeting


def test_losses_in_words() -> None:
    died = RuntimeError("died\nand more")
    assert losses.in_words({1: died, 0: ValueError()}) == "worker 0 (ValueError: ), worker 1 (RuntimeError: died)"
    assert losses.in_words({0: died, 1: DataError("no such file")}) == ""  # told by itself
    assert losses.in_words({0: died, 1: Gone("gone")}) == "worker 1 (Gone: gone)"  # the other lost its peer

"""What became of the workers of a training, out of Ray's wrappers: an error of the work, or a worker that is gone."""

from fm.errors import UserError


def lost(error: BaseException) -> Exception | None:
    """Of an error that ended a training: how workers, a machine or the cluster went away; None if work failed itself.

    Those that stay hear of the loss from the library that sums gradients.
    """
    failures = getattr(error, "worker_failures", None) or {0: error}
    each = [unwrapped(failure) for failure in failures.values()]
    gone = [one for one in each if _of_ray(one)]
    heard = [one for one in each if _heard(one)]
    return next(iter([*gone, *heard]), None) if len(gone) + len(heard) == len(each) else None


def _of_ray(error: BaseException) -> bool:
    return type(error).__module__.startswith("ray.")


def _heard(error: BaseException) -> bool:
    """Whether it is what a worker raises whose peer is gone."""
    import torch.distributed as dist

    by_words = type(error) is RuntimeError and any(name in str(error).lower() for name in ("gloo", "nccl"))
    return by_words or isinstance(error, dist.DistError)


def in_words(failures: dict[int, Exception]) -> str:
    """`worker 1 (ActorDiedError: The actor died ...)`; nothing where it is the user's to mend.

    Of those that are gone, if there are any: the others only lost their peer.
    """
    own = {rank: unwrapped(error) for rank, error in sorted(failures.items())}
    if any(isinstance(error, UserError) for error in own.values()):
        return ""
    own = {rank: error for rank, error in own.items() if _of_ray(error)} or own
    first_lines = {rank: next(iter(str(error).splitlines()), "") for rank, error in own.items()}
    return ", ".join(f"worker {rank} ({type(own[rank]).__name__}: {line})" for rank, line in first_lines.items())


def failed_rank(error: BaseException | None) -> int | None:
    """Which worker of a training failed first, if the error says so: one that died, else any."""
    failures: dict[int, BaseException] = {}
    for _ in range(8):  # errors may name each other as causes
        if error is None or failures:
            break
        failures, error = getattr(error, "worker_failures", None) or {}, error.__cause__ or error.__context__
    died = [rank for rank, one in failures.items() if _of_ray(unwrapped(one))]
    return next(iter([*died, *failures]), None)


def unwrapped(error: BaseException) -> Exception:
    """The error that a worker raised, out of Ray's wrappers; Ray's own if there is none inside."""
    failures = getattr(error, "worker_failures", None)  # Ray Train: rank -> its error
    if failures:
        known = [unwrapped(e) for e in failures.values()]
        return next((e for e in known if isinstance(e, UserError)), known[0])
    for inside in (getattr(error, "cause", None), error.__cause__):
        if isinstance(inside, BaseException) and inside is not error:
            return unwrapped(inside)
    return error if isinstance(error, Exception) else RuntimeError(repr(error))

"""The allocator on a CPU: what a backward pass frees is kept for the next one, not given back to the system."""

import ctypes
from contextlib import suppress
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@cache
def keep_freed() -> None:
    """Spares each backward pass some 50,000 page faults, about 5 % of its time; for the whole process, and once.

    By default glibc hands large tensors back to the system when they are freed, and gets them again page by page.
    Without glibc nothing is done.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(TRIM_THRESHOLD, 1 << 30)
        mallopt(MMAP_THRESHOLD, 1 << 25)  # the largest that glibc takes

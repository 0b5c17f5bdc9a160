"""Storage that fails: file systems of their own, which only root may mount."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path


def mount(*arguments: str | Path) -> str:
    """What mount complains of; nothing when it worked."""
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 64 MiB of its own."""
    folder.mkdir()
    if refused := mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", folder):
        raise PermissionError(refused)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def own_disk(folder: Path) -> Iterator[None]:
    """An ext4 of 256 MiB in a file, which `frozen` can hold."""
    image = folder.with_suffix(".img")
    with open(image, "wb") as file:
        file.truncate(256 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    folder.mkdir()
    if refused := mount("-o", "loop", image, folder):
        raise PermissionError(refused)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def frozen(folder: Path) -> Iterator[None]:
    """Whoever writes on this disk waits for the end of the block, as on network storage that is away."""
    subprocess.run(["fsfreeze", "--freeze", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", str(folder)], check=True)

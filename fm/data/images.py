"""Random access to the images of a prepared data set: shards are opened when they are first asked for.

An open shard is its index and one memory map. Raw samples are gathered straight from the map (no second copy, no worker
processes); PNG samples are decoded on every read, unless a cache keeps them decoded. Where the files lie is for
`fm/data/staging.py` to say.
"""

import io
import math
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from fm.data.addresses import is_address, node_cache
from fm.data.manifest import REPAIR, index_path, load_manifest, shards_of, tar_path
from fm.data.order import groups
from fm.data.staging import Staging
from fm.errors import DataError, SettingsError, nearest


class Pictures(NamedTuple):
    """Where square images lie in a file. Row i of `rows` is the part of the file that starts at byte i and is as long
    as one raw image (one byte for PNG): a view of the memory map in which indexing copies the images at any offsets."""

    rows: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    side: int


class Opened(NamedTuple):
    """A shard that is open; `low` of pairs alone."""

    images: Pictures
    labels: NDArray[np.int64]
    low: Pictures | None


class ShardedImages:
    """The images of one split of DATA (None: of all), in an order that is stable for life.

    [i] -> (uint8 (height, width, channels), label, -1 where none). `sizes` the images of each shard, `labels` int64
    (n,), `classes` the label names, `shape` (channels, height, width), `digest` the whole data set's identity.

    root is a folder or an address (`s3://bucket/data`), whose shards are staged in `cache`, a folder of this machine:
    FM_CACHE or `~/.cache/flow-matching` if unnamed. A named cache keeps PNG samples decoded, too. `threads` decode PNG.
    A shard's SHA-256 is compared when this machine first opens it, and again if the file changes. Threads that `keep`
    different shards need a copy of this (`copy.copy`) each.

    Raises: DataError if there is no data set, no such split, or files that do not match the manifest; SettingsError for
    no threads.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        cache: str | Path | None = None,
        threads: int = 1,
    ) -> None:
        if threads < 1:
            raise SettingsError(f"{threads} threads cannot decode", mend="use at least 1")
        self.manifest, self.split, self.threads = load_manifest(root), split, threads
        if split is not None and split not in self.manifest.splits:
            raise DataError(
                f"no split {split!r} in this data set", where=str(root), mend=nearest(split, self.manifest.splits)
            )
        self.shape, self.digest = self.manifest.shape, self.manifest.digest
        self.classes = list(self.manifest.classes)
        self._files = Staging(str(root), self.manifest, _cache(root, cache))
        self._shards = [shard for _, shard in shards_of(self.manifest, split)]
        self.sizes = [shard.images for shard in self._shards]
        self._first = np.cumsum(self.sizes) - self.sizes
        self._open: dict[int, Opened] = {}
        self._held: dict[int, IO[str] | None] = {}
        if not self._files.remote:
            self._look()

    def _look(self) -> None:
        """A shard that is missing or cut short is named before the work begins, not in the middle of it."""
        root = Path(self._files.root)
        for shard in self._shards:
            tar = tar_path(root, shard.name)
            for path in (tar, index_path(root, shard.name)):
                if not path.is_file():
                    raise DataError(f"{path.parent.name}/{path.name} is missing", str(root), REPAIR)
            if tar.stat().st_size != shard.bytes:
                raise DataError(f"shards/{tar.name} does not match the manifest", str(root), REPAIR)

    def __len__(self) -> int:
        return sum(self.sizes)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        images, labels = self.take([index % len(self)])
        return images[0], int(labels[0])

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Every image's label; reads the index of every shard."""
        return np.concatenate([self._files.index(shard)[:, 2] for shard in self._shards])

    def gather(self, indices: ArrayLike) -> NDArray[np.uint8]:
        """uint8 (n, height, width, channels) of any indices, in their order."""
        return self.take(indices)[0]

    def take(self, indices: ArrayLike) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """uint8 (n, height, width, channels) and int64 labels (n,) of any indices, in their order.

        Raises: DataError for a shard that is missing or damaged.
        """
        channels, height, width = self.shape
        asked = np.asarray(indices, np.int64).reshape(-1)
        images = np.empty((len(asked), height, width, channels), np.uint8)
        labels = np.empty(len(asked), np.int64)
        for shard, here, places in self._places(asked):
            opened = self._opened(shard)
            images[here], labels[here] = self._read(shard, opened.images, places), opened.labels[places]
        return images, labels

    def low(self, indices: ArrayLike) -> NDArray[np.uint8]:
        """uint8 (n, low_size, low_size, channels): the low-resolution pictures beside any images, in their order.

        Raises: as `take`; DataError if there are none.
        """
        side = self.manifest.settings.low_size
        if side is None:
            raise DataError("holds no pairs", self._files.root, "prepare it with `--low-size`")
        asked = np.asarray(indices, np.int64).reshape(-1)
        images = np.empty((len(asked), side, side, self.shape[0]), np.uint8)
        for shard, here, places in self._places(asked):
            low = self._opened(shard).low
            images[here] = self._read(shard, low, places) if low else 0
        return images

    def _places(self, indices: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
        """Each shard that holds some of the images, which of them, and where they stand in it."""
        if ((indices < 0) | (indices >= len(self))).any():
            raise IndexError(f"images {indices.min()} to {indices.max()} of {len(self)}")
        for shard, here in groups(np.searchsorted(self._first, indices, side="right") - 1):
            yield shard, here, indices[here] - self._first[shard]

    def keep(self, shards: Collection[int] | None) -> None:
        """Closes all shards but these (None: none), and removes what was staged of those that nobody on this machine
        keeps."""
        if shards is None:
            return
        kept = set(shards)
        self._held |= {shard: self._files.hold(self._shards[shard]) for shard in kept - self._held.keys()}
        for shard in (self._open.keys() | self._held.keys()) - kept:
            self._open.pop(shard, None)
            if held := self._held.pop(shard, None):
                held.close()
            self._files.drop(self._shards[shard])

    def _read(self, shard: int, pictures: Pictures, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        offsets = pictures.offsets[places]
        if self.raw:
            return pictures.rows[offsets].reshape(-1, pictures.side, pictures.side, self.shape[0])
        tar = pictures.rows[:, 0]
        files = [tar[o : o + n].tobytes() for o, n in zip(offsets, pictures.lengths[places], strict=True)]
        try:
            return self._decode(files)
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged bytes, and np.stack
            name = self._shards[shard].name
            raise DataError(f"shards/{name}.tar holds a damaged PNG ({error})", self._files.root, REPAIR) from None

    @property
    def raw(self) -> bool:
        """Whether pixels lie on the disk as they are, so that reading is copying."""
        return self._files.decodes or self.manifest.settings.encoding == "raw"

    def _decode(self, files: list[bytes]) -> NDArray[np.uint8]:
        if self.threads == 1:
            return np.stack([_pixels(file) for file in files])
        each = -(-len(files) // self.threads)
        shares = [files[start : start + each] for start in range(0, len(files), each)]
        return np.concatenate(list(self._pool.map(lambda share: [_pixels(file) for file in share], shares)))

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads, "decode")

    def _opened(self, shard: int) -> Opened:
        opened = self._open.get(shard)
        if opened is None:
            with self._files.hold(self._shards[shard]) or nullcontext():  # no file goes before it is mapped
                mapped = _map(self._files.samples(self._shards[shard], self._decode))
                offsets, lengths, labels, *pair = self._files.index(self._shards[shard]).T.copy()
                if self._files.decodes:
                    offsets = np.arange(len(labels)) * math.prod(self.shape)
                images = self._pictures(mapped, offsets, lengths, self.shape[1])
                side = self.manifest.settings.low_size
                low = self._pictures(mapped, pair[0], pair[1], side) if side else None
            opened = self._open[shard] = Opened(images, labels, low)
        return opened

    def _pictures(
        self, mapped: NDArray[np.uint8], offsets: NDArray[np.int64], lengths: NDArray[np.int64], side: int
    ) -> Pictures:
        window = self.shape[0] * side**2 if self.raw else 1
        return Pictures(np.lib.stride_tricks.sliding_window_view(mapped, window), offsets, lengths, side)

    def __getstate__(self) -> dict[str, Any]:
        """Without its maps, each of which would carry a whole tar, what it keeps, and its threads."""
        own = {name: value for name, value in self.__dict__.items() if name != "_pool"}
        return own | {"_open": {}, "_held": {}}


def _cache(root: str | Path, named: str | Path | None) -> Path | None:
    return Path(named) if named else node_cache() if is_address(root) else None


def _map(path: Path) -> NDArray[np.uint8]:
    """By torch, which closes the file: numpy's map keeps a handle, and ImageNet's 1,282 shards pass the usual 1,024."""
    import torch

    return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8).numpy()


def _pixels(file: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(file), formats=("PNG",)))

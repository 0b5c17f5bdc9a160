"""Random access to the images of a prepared data set: an index into each tar, and one memory map over it.

Raw samples are gathered straight from the maps (no second copy, no worker processes); PNG samples are decoded on every
read.
"""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from fm.data.manifest import Shard, index_path, load_manifest, shards_of, tar_path
from fm.errors import DataError, nearest


class ShardedImages:
    """The images of one split of DATA (None: of all), in an order that is stable for life.

    [i] -> (uint8 (height, width, channels), label, -1 where none). `labels` int64 (n,), `classes` the label names,
    `shape` (channels, height, width), `digest` the whole data set's identity.

    Raises: DataError if the folder holds no data set, no such split, or files that do not match the manifest.
    """

    def __init__(self, root: str | Path, split: str | None = None) -> None:
        self.root, self.split = Path(root), split
        self.manifest = load_manifest(root)
        if split is not None and split not in self.manifest.splits:
            raise DataError(
                f"no split {split!r} in this data set", where=str(root), mend=nearest(split, self.manifest.splits)
            )
        self.shape, self.digest = self.manifest.shape, self.manifest.digest
        self.classes = list(self.manifest.classes)
        self._shards = [shard for _, shard in shards_of(self.manifest, split)]
        tables = [_read_index(self.root, shard) for shard in self._shards]
        self._shard_of = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
        self._offsets, self._lengths, self.labels = np.concatenate(tables).T.copy()
        self._maps: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self.gather([index])[0], int(self.labels[index])

    def gather(self, indices: ArrayLike) -> NDArray[np.uint8]:
        """uint8 (n, height, width, channels) of any indices, in their order."""
        indices = np.asarray(indices, np.int64).reshape(-1)
        channels, height, width = self.shape
        images = np.empty((len(indices), height, width, channels), np.uint8)
        shard_of = self._shard_of[indices]
        by_shard = np.argsort(shard_of, kind="stable")
        for here in np.split(by_shard, np.flatnonzero(np.diff(shard_of[by_shard])) + 1):
            if len(here):
                images[here] = self._read(int(shard_of[here[0]]), indices[here])
        return images

    def _read(self, shard: int, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        channels, height, width = self.shape
        offsets = self._offsets[indices]
        if self.manifest.settings.encoding == "raw":
            return self._map(shard)[offsets].reshape(-1, height, width, channels)
        tar = self._map(shard)[:, 0]
        files = (tar[o : o + n].tobytes() for o, n in zip(offsets, self._lengths[indices], strict=True))
        return np.stack([np.asarray(Image.open(io.BytesIO(file), formats=("PNG",))) for file in files])

    def _map(self, shard: int) -> NDArray[np.uint8]:
        """Row i is the part of the tar that starts at byte i and is as long as one raw image (one byte for PNG): a view
        of the memory map in which indexing copies the images at any offsets."""
        if shard not in self._maps:
            tar = np.asarray(np.memmap(tar_path(self.root, self._shards[shard].name), np.uint8, "r"))
            length = math.prod(self.shape) if self.manifest.settings.encoding == "raw" else 1
            self._maps[shard] = np.lib.stride_tricks.sliding_window_view(tar, length)
        return self._maps[shard]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # a pickled memory map would carry the whole tar


def _read_index(root: Path, shard: Shard) -> NDArray[np.int64]:
    """(images, 3): payload's offset and length in the tar, label."""
    path, tar = index_path(root, shard.name), tar_path(root, shard.name)
    try:
        table = np.load(path, allow_pickle=False)
        size = tar.stat().st_size
    except (OSError, ValueError) as error:
        raise DataError(f"shard {shard.name} cannot be read ({error})", where=str(root)) from None
    if table.shape != (shard.images, 3) or size != shard.bytes:
        raise DataError(
            f"shard {shard.name} does not match the manifest", where=str(root), mend="run `fm prepare` again"
        )
    return table.astype(np.int64)

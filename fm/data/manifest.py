"""What a prepared data set says of itself: `DATA/manifest.json` and the shards' records, made, read and identified.

A folder without a manifest is unfinished, whatever else lies in it.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic
from numpy.typing import NDArray

from fm.data.addresses import is_address, read_pieces
from fm.data.decode import REASONS
from fm.data.preparation import Preparation
from fm.data.tally import Tally, added
from fm.errors import DataError, UserError
from fm.files import read_json, sha256
from fm.lineage import digest
from fm.settings import Settings

FORMAT: Literal["fm-shards-1"] = "fm-shards-1"
AGAIN = "rename it and run `fm prepare` again with the same options (whole shards are kept), then --add what was added"
REPAIR = "run `fm prepare` again: it rewrites what is damaged"
Reject = tuple[str, str, str]  # split, key, reason


class Shard(Settings):
    """One tar, its index, and those for other readers (`sidecar_paths`)."""

    name: str
    images: int
    bytes: int
    sha256: str
    index_sha256: str
    sidecars_sha256: tuple[str, ...]


class Finished(Settings):
    """The record beside a shard's index: what decided its bytes, what it holds, and (key, reason) of its rejects."""

    inputs: str
    split: str
    shard: Shard
    tally: Tally
    rejected: tuple[tuple[str, str], ...]


class Split(Settings):
    """class_images: how many of each class, in the labels' order; mean and std of each channel, in grey levels."""

    images: int
    class_images: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shards: tuple[Shard, ...]


class Origin(Settings):
    """A source that a data set was made from.

    digest: of the source, and `inputs` of source and settings; planned: how many pictures of each split it lists;
    missing: how many it lacks of those that such a set is known to have.
    """

    source: str
    digest: str
    inputs: str
    planned: dict[str, int]
    missing: dict[str, int]


class Manifest(Settings):
    """Counts, names and hashes of a prepared data set.

    `digest` identifies the content and so the data set, `seal` all else that stands here. The first of its origins is
    the source that it was made from, the others were added. `rejected` counts pictures by reason, `traits` those in it
    by what is odd about their files.
    """

    format: Literal["fm-shards-1"] = FORMAT
    digest: str
    origins: tuple[Origin, ...]
    settings: Preparation
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    splits: dict[str, Split]
    rejected: dict[str, int]
    traits: dict[str, int]
    seal: str

    @property
    def images(self) -> int:
        return sum(split.images for split in self.splits.values())

    def summary(self) -> dict[str, int | str]:
        """The images of each split, and the digest."""
        return {name: split.images for name, split in self.splits.items()} | {"digest": self.digest}

    @property
    def source(self) -> str:
        """The source that it was made from."""
        return self.origins[0].source

    @property
    def inputs(self) -> str:
        """Identifies that source and the settings, for "is it current?"."""
        return self.origins[0].inputs


def content_digest(splits: dict[str, Split], classes: tuple[str, ...], settings: Preparation) -> str:
    """The data set's identity: the shards' hashes and what is needed to read them."""
    hashes = {name: [shard.sha256 for shard in split.shards] for name, split in splits.items()}
    return digest(FORMAT, hashes, classes, settings.identity())


def seal_of(manifest: Manifest) -> str:
    return digest(manifest.model_dump(mode="json", exclude={"seal"}))


def make_manifest(
    origins: Sequence[Origin], settings: Preparation, classes: tuple[str, ...], finished: Iterable[Finished]
) -> Manifest:
    """The manifest of finished shards, in their order; those without images are left out."""
    groups: dict[str, list[Finished]] = {}
    rejected: Counter[str] = Counter()
    for one in finished:
        rejected.update(reason for _, reason in one.rejected)
        if one.shard.images:
            groups.setdefault(one.split, []).append(one)
    splits = {name: _split(groups[name], classes) for name in sorted(groups)}
    unsealed = Manifest(
        digest=content_digest(splits, classes, settings),
        origins=tuple(origins),
        settings=settings,
        shape=settings.shape,
        classes=classes,
        splits=splits,
        rejected=dict(sorted(rejected.items())),
        traits=added(one.tally for group in groups.values() for one in group).traits,
        seal="",
    )
    return unsealed.model_copy(update={"seal": seal_of(unsealed)})


def _split(group: list[Finished], classes: tuple[str, ...]) -> Split:
    tally = added(one.tally for one in group)
    return Split(
        images=sum(one.shard.images for one in group),
        class_images=tuple(tally.labels.get(label, 0) for label in range(len(classes))),
        mean=tally.mean(),
        std=tally.std(),
        shards=tuple(one.shard for one in group),
    )


def load_manifest(root: str | Path) -> Manifest:
    """The manifest of a prepared data set in a folder or at an address (`s3://bucket/data`).

    Raises: DataError if there is none, or it is not ours, or was changed by hand.
    """
    path = f"{str(root).rstrip('/')}/manifest.json"
    try:
        manifest = Manifest.model_validate(_values(root, path))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the whole file"
        raise DataError(f"not a manifest of this program ({key}: {first['msg']})", path, AGAIN) from None
    if manifest.seal != seal_of(manifest):
        raise DataError("was changed by hand: its seal is not that of what it says", path, AGAIN)
    return manifest


def _values(root: str | Path, path: str) -> Any:
    if is_address(root):
        data = b"".join(read_pieces(path))
    elif Path(path).is_file():
        data = Path(path).read_bytes()
    else:
        raise DataError("no prepared data set here", where=str(root), mend="make one with `fm prepare SOURCE OUT`")
    try:
        return json.loads(data)
    except ValueError as error:
        raise DataError(f"cannot be read as JSON ({error})", path, AGAIN) from None


def tar_path(root: Path, name: str) -> Path:
    return root / "shards" / f"{name}.tar"


def index_path(root: Path, name: str) -> Path:
    return root / "index" / f"{name}.npy"


def record_path(root: Path, name: str) -> Path:
    return root / "index" / f"{name}.json"


def read_record(root: Path, name: str) -> Finished | None:
    """What a shard's writer left beside its index; None if it is missing, damaged or of another version."""
    path = record_path(root, name)
    try:
        return Finished.model_validate(read_json(path)) if path.is_file() else None
    except (pydantic.ValidationError, UserError):
        return None


def rejects_of(finished: Iterable[Finished]) -> list[Reject]:
    return [(one.split, key, reason) for one in finished for key, reason in one.rejected]


def listed(rejects: Iterable[Reject]) -> str:
    """The text of `rejected.jsonl`."""
    rows = [{"key": key, "split": split, "reason": reason, "says": REASONS[reason]} for split, key, reason in rejects]
    return "".join(json.dumps(row) + "\n" for row in rows)


def sidecar_paths(root: Path, name: str) -> tuple[Path, Path]:
    """DALI's index and Energon's, each where that program looks for it."""
    return root / "shards" / f"{name}.idx", root / "shards" / f"{name}.tar.idx"


def read_index(root: Path, shard: Shard) -> NDArray[np.int64]:
    """(images, 3): payload's offset and length in the tar, label; of pairs (images, 5): also those of the low one.

    Raises: DataError if it is missing or is not what was written.
    """
    try:
        data = index_path(root, shard.name).read_bytes()
    except OSError as error:
        raise DataError(f"index/{shard.name}.npy cannot be read ({error.strerror})", str(root), REPAIR) from None
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        raise DataError(f"index/{shard.name}.npy does not match the manifest", str(root), REPAIR)
    return np.load(io.BytesIO(data), allow_pickle=False).astype(np.int64)


def intact(root: Path, shard: Shard) -> str:
    """Why the shard's files are not those that were written, or nothing if they are."""
    paths = (tar_path(root, shard.name), index_path(root, shard.name), *sidecar_paths(root, shard.name))
    for path, due in zip(paths, (shard.sha256, shard.index_sha256, *shard.sidecars_sha256), strict=True):
        if not path.is_file():
            return f"{path.parent.name}/{path.name} is missing"
        if sha256(path) != due:
            return f"{path.parent.name}/{path.name} is not what was written (its SHA-256 differs)"
    return ""


def shards_of(manifest: Manifest, split: str | None = None) -> Iterator[tuple[str, Shard]]:
    """(split, shard) of one split, or of all in the order of their names."""
    for name, part in manifest.splits.items():
        if split in (None, name):
            yield from ((name, shard) for shard in part.shards)

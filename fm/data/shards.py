"""Source in, exact shards out: the same inputs give the same bytes, in parallel, and after any interruption.

A shard is a fixed range of the source's shuffled index, written whole by one part; the parts may run anywhere and in
any order. Rejected pictures make a shard shorter and move nothing else. A finished shard leaves a record in
`DATA/index/`, and is kept by the next run if record and hashes still agree.
"""

import hashlib
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
from numpy.typing import NDArray

from fm.data.decode import REASONS, Rejected
from fm.data.manifest import Manifest, Map, Shard, index_path, intact, load_manifest, make_manifest, tar_path
from fm.data.order import words
from fm.data.preparation import Preparation, encode, prepare
from fm.data.sources import Item, Listing, Source
from fm.data.ustar import UstarWriter
from fm.errors import DataError, UserError
from fm.files import atomic, read_json, writable_folder, write_json, write_text
from fm.lineage import digest
from fm.settings import Settings

OURS = re.compile(r"\.?[a-z]+-\d{6}\.(tar|npy|json)(\.\d+\.part)?")
TAR_OVERHEAD_BYTES = 3 * 1024  # headers, label and JSON of one sample, rounded up


@dataclass(frozen=True)
class Part:
    """The work of one shard: picklable, and complete in itself.

    labels: the numbers of its items' class names; first: the number of its first sample in the split.
    """

    source: Source
    root: Path
    settings: Preparation
    labels: dict[str, int]
    inputs: str
    split: str
    name: str
    first: int
    items: Listing


class Finished(Settings):
    """The record that a part leaves: its shard, and the (key, reason) of what it left out."""

    inputs: str
    split: str
    shard: Shard
    rejected: tuple[tuple[str, str], ...]


def inputs_digest(source: Source, settings: Preparation) -> str:
    """Identifies source and settings without reading the pictures; compare with `Manifest.inputs`."""
    return digest(source.digest(), settings)


def write_shards(
    source: Source,
    out: str | Path,
    settings: Preparation,
    map: Map = map,
    progress: Callable[[int, int], None] | None = None,
    replace: bool = False,
) -> Manifest:
    """Prepares the source into the folder `out` and returns its manifest.

    map(function, parts) yields results in order and may run them anywhere (all are picklable); progress(done, total)
    counts images; replace allows to overwrite a finished data set that came from other inputs.

    Raises: DataError for a source without a readable image, a full disk, or a finished data set of other inputs in
    `out`; UserError if `out` cannot be written.
    """
    root = writable_folder(Path(out).resolve())
    inputs = inputs_digest(source, settings)
    _clear_for(root, inputs, replace)
    plan = Plan(source, root, settings, inputs)
    _check_space(root, len(plan.items), settings)
    finished: list[Finished] = []
    done = 0
    for _, result in zip(range(len(plan)), map(write_shard, plan), strict=True):
        finished.append(result)
        done += result.shard.images + len(result.rejected)
        if progress:
            progress(done, len(plan.items))
    return _finish(source, root, settings, plan, finished)


class Plan(Sequence[Part]):
    """The parts of a preparation: items sorted by key, split, shuffled within the split, cut into shards.

    A part is made when it is asked for: the plan itself is the source's listing and an array of places in it.
    """

    def __init__(self, source: Source, root: Path, settings: Preparation, inputs: str) -> None:
        self._make = partial(Part, source, root, settings)
        self.items, self.inputs = source.items(), inputs
        if not self.items:
            raise DataError("no images in it", where=source.uri, mend="give a source with at least one image")
        self.classes = tuple(self.items.labels())
        self._labels = {name: number for number, name in enumerate(self.classes)}
        self._orders = {
            split: group[np.argsort(words(len(group), settings.seed, split, "shards"), kind="stable")]
            for split, group in sorted(split_items(self.items, settings.holdout).items())
        }
        self._each = settings.shard_images
        self._shards = [
            (split, number) for split, order in self._orders.items() for number in range(-(-len(order) // self._each))
        ]

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: Any) -> Any:
        split, number = self._shards[index]
        first = number * self._each
        items = self.items.take(self._orders[split][first : first + self._each])
        labels = {name: self._labels[name] for name in items.labels()}
        return self._make(labels, self.inputs, split, f"{split}-{number:06d}", first, items)


def split_items(items: Listing, holdout: float) -> dict[str, NDArray[np.int64]]:
    """Where the items of each split stand: the source's own splits, or train and test by a hash of each key.

    One name for all is no split. Both get at least one, as far as two items go: those of the lowest and highest hash.
    """
    named = items.by_split()
    if len(named) > 1:
        own: dict[str, list[NDArray[np.int64]]] = {}
        for split, group in named.items():
            own.setdefault(split or "train", []).append(group)
        return {split: np.sort(np.concatenate(several)) for split, several in own.items()}
    places = np.fromiter((_place(items.key_at(i)) for i in range(len(items))), np.float64, len(items))
    bound = min(max(holdout, places.min() + 2.0**-33), places.max())
    groups = {"train": np.flatnonzero(places >= bound), "test": np.flatnonzero(places < bound)}
    return {split: group for split, group in groups.items() if len(group)}


def _place(key: bytes) -> float:
    """Where in [0, 1) a key falls: the same for ever, whatever else the source holds."""
    hashed = hashlib.blake2b(key, digest_size=4).digest()
    return int.from_bytes(hashed, "little") / 2**32


def write_shard(part: Part) -> Finished:
    """Writes the part's tar, index and record, or keeps what an earlier run left if its hashes still agree."""
    kept = _kept(part)
    if kept:
        return kept
    index: list[tuple[int, int, int]] = []
    rejected: list[tuple[str, str]] = []
    try:
        with atomic(tar_path(part.root, part.name)) as file:
            tar = UstarWriter(file)
            for number, item in enumerate(part.items, start=part.first):
                try:
                    index.append(_add(tar, f"{part.split}-{number:09d}", item, part))
                except Rejected as error:
                    rejected.append((item.key, error.reason))
            tar_sha256 = tar.close()
        index_sha256 = _write_index(index_path(part.root, part.name), index)
        shard = Shard(name=part.name, images=len(index), bytes=tar.bytes, sha256=tar_sha256, index_sha256=index_sha256)
        finished = Finished(inputs=part.inputs, split=part.split, shard=shard, rejected=tuple(rejected))
        write_json(_record_path(part), finished.model_dump(mode="json"))
    except OSError as error:
        raise DataError(f"shard {part.name} cannot be written ({error.strerror})", where=str(part.root)) from None
    return finished


def _add(tar: UstarWriter, key: str, item: Item, part: Part) -> tuple[int, int, int]:
    """Appends one sample; returns its row of the index: payload's offset and length, label."""
    if item.fault:
        raise Rejected(item.fault)
    pixels, (width, height) = prepare(part.source.read(item), part.settings)
    data, start = encode(pixels, part.settings.encoding)
    label = -1 if item.label is None else part.labels[item.label]
    facts = {"key": item.key, "class": item.label, "split": part.split, "width": width, "height": height} | item.meta
    offset = tar.add(f"{key}.{'npy' if part.settings.encoding == 'raw' else 'png'}", data)
    tar.add(f"{key}.cls", str(label).encode())
    tar.add(f"{key}.json", json.dumps(facts).encode())
    return offset + start, len(data) - start, label


def _write_index(path: Path, rows: list[tuple[int, int, int]]) -> str:
    file = io.BytesIO()
    np.save(file, np.array(rows, "<i8").reshape(-1, 3), allow_pickle=False)
    with atomic(path) as out:
        out.write(file.getvalue())
    return hashlib.sha256(file.getvalue()).hexdigest()


def _record_path(part: Part) -> Path:
    return part.root / "index" / f"{part.name}.json"


def _kept(part: Part) -> Finished | None:
    if not _record_path(part).is_file():
        return None
    try:
        finished = Finished.model_validate(read_json(_record_path(part)))
    except (pydantic.ValidationError, UserError):
        return None
    same = finished.inputs == part.inputs and finished.shard.name == part.name
    return finished if same and not intact(part.root, finished.shard) else None


def _clear_for(root: Path, inputs: str, replace: bool) -> None:
    """Refuses a finished data set of other inputs, or first takes away its manifest, which would claim too much."""
    path = root / "manifest.json"
    if not path.exists() or load_manifest(root).inputs == inputs:
        return
    if not replace:
        raise DataError(
            "holds a data set that was made from another source or with other settings",
            where=str(root),
            mend="choose another folder or remove this one",
        )
    path.unlink()


def _check_space(root: Path, images: int, settings: Preparation) -> None:
    due = images * (settings.size**2 * 3 + TAR_OVERHEAD_BYTES)
    there = sum(path.stat().st_size for path in (root / "shards").glob("*.tar"))
    free = shutil.disk_usage(root).free
    if due - there > free:
        raise DataError(
            f"{images:,} images need about {due / 1e9:.1f} GB and {(free + there) / 1e9:.1f} GB are free",
            where=str(root),
            mend="choose a folder on a larger disk",
        )


def _finish(source: Source, root: Path, settings: Preparation, plan: Plan, finished: list[Finished]) -> Manifest:
    """Writes rejects and manifest, the manifest last; files of ours that no shard of this data set owns are removed."""
    rejects = [(one.split, key, reason) for one in finished for key, reason in one.rejected]
    counts = Counter(reason for _, _, reason in rejects)
    if not any(one.shard.images for one in finished):
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))
        raise DataError(f"not one of its {len(rejects):,} images can be read ({reasons})", where=source.uri)
    lines = [
        json.dumps({"key": key, "split": split, "reason": reason, "says": REASONS[reason]})
        for split, key, reason in rejects
    ]
    write_text(root / "rejected.jsonl", "".join(line + "\n" for line in lines))
    pairs = [(one.split, one.shard) for one in finished]
    manifest = make_manifest(source.uri, plan.inputs, settings, plan.classes, pairs, counts)
    _remove_strays(root, {one.shard.name for one in finished})
    write_json(root / "manifest.json", manifest.model_dump(mode="json"))
    return manifest


def _remove_strays(root: Path, names: set[str]) -> None:
    for path in [*(root / "shards").iterdir(), *(root / "index").iterdir()]:
        stray = path.name.startswith(".") or path.name.split(".")[0] not in names
        if stray and OURS.fullmatch(path.name):
            path.unlink()

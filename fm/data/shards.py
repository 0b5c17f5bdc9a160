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
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydantic

from fm.data.decode import REASONS, Rejected
from fm.data.manifest import Manifest, Map, Shard, index_path, intact, load_manifest, make_manifest, tar_path
from fm.data.planning import Part, Plan, inputs_digest
from fm.data.preparation import Preparation, encode, prepare
from fm.data.sources import Item, Source
from fm.data.ustar import UstarWriter
from fm.errors import DataError, UserError
from fm.files import atomic, read_json, writable_folder, write_json, write_text
from fm.settings import Settings

Reject = tuple[str, str, str]  # split, key, reason
OURS = re.compile(r"\.?[a-z]+-\d{6}\.(tar|npy|json)(\.\d+\.part)?")
TAR_OVERHEAD_BYTES = 3 * 1024  # headers, label and JSON of one sample, rounded up


class Finished(Settings):
    """The record that a part leaves: its identity, its shard, and the (key, reason) of what it left out."""

    inputs: str
    split: str
    shard: Shard
    rejected: tuple[tuple[str, str], ...]


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
    `out`, or one that lacks pictures it is known to have, unless the settings accept that; UserError if `out` cannot
    be written.
    """
    root = writable_folder(Path(out).resolve())
    inputs = inputs_digest(source, settings)
    _clear_for(root, inputs, replace)
    plan = Plan(source, root, settings, inputs)
    faults = [(item.split or "train", item.key, item.fault) for item in plan.items.take(plan.items.faulty())]
    _check_counts(source, root, plan, faults, settings)
    _check_space(root, len(plan.items), settings)
    finished: list[Finished] = []
    done = 0
    for _, result in zip(range(len(plan)), map(write_shard, plan), strict=True):
        finished.append(result)
        done += result.shard.images + len(result.rejected)
        if progress:
            progress(done, len(plan.items))
    return _finish(source, root, settings, plan, finished)


def write_shard(part: Part) -> Finished:
    """Writes the part's tar, index and record, or keeps what an earlier run left if its hashes still agree."""
    inputs = part.identity()
    if kept := _kept(part, inputs):
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
        finished = Finished(inputs=inputs, split=part.split, shard=shard, rejected=tuple(rejected))
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


def _kept(part: Part, inputs: str) -> Finished | None:
    if not _record_path(part).is_file():
        return None
    try:
        finished = Finished.model_validate(read_json(_record_path(part)))
    except (pydantic.ValidationError, UserError):
        return None
    same = finished.inputs == inputs and finished.shard.name == part.name
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
    if not any(one.shard.images for one in finished):
        raise DataError(f"not one of its {len(rejects):,} images can be read ({_said(rejects)})", where=source.uri)
    missing = _check_counts(source, root, plan, rejects, settings)
    reasons = Counter(reason for *_, reason in rejects)
    _write_rejects(root, rejects)
    pairs = [(one.split, one.shard) for one in finished]
    settings = settings.model_copy(update={"accept_missing": False})  # what was accepted stands in `missing`
    manifest = make_manifest(source.uri, plan.inputs, settings, plan.classes, pairs, reasons, missing)
    _remove_strays(root, {one.shard.name for one in finished})
    write_json(root / "manifest.json", manifest.model_dump(mode="json"))
    return manifest


def _check_counts(
    source: Source, root: Path, plan: Plan, rejects: list[Reject], settings: Preparation
) -> dict[str, int]:
    """How many pictures each split lacks of those that it is known to have; by the source's own splits.

    Raises: DataError if there are such and the settings do not accept it; the rejects are listed then.
    """
    due, counts = Counter(source.expected()), plan.counts() - Counter(split for split, _, _ in rejects)
    if not plan.own_splits:  # of one name, which data set's splits then do not follow
        due, counts = (Counter({" and ".join(source.expected()): each.total()}) for each in (due, counts))
    missing = due - counts
    if missing and not settings.accept_missing:
        _write_rejects(root, rejects)
        raise DataError(
            ", ".join(f"{counts[name]:,} readable pictures in {name} where {due[name]:,} are due" for name in missing)
            + (f" ({_said(rejects)}: see {root / 'rejected.jsonl'})" if rejects else ""),
            where=source.uri,
            mend="fetch or mend what is missing and start again, which keeps whole shards, or give --accept-missing "
            "(data.accept_missing=true)",
        )
    return dict(missing)


def _said(rejects: list[Reject]) -> str:
    """`2 truncated, 1 empty`."""
    return ", ".join(f"{count:,} {reason}" for reason, count in Counter(reason for *_, reason in rejects).most_common())


def _write_rejects(root: Path, rejects: list[Reject]) -> None:
    rows = [{"key": key, "split": split, "reason": reason, "says": REASONS[reason]} for split, key, reason in rejects]
    write_text(root / "rejected.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _remove_strays(root: Path, names: set[str]) -> None:
    for path in [*(root / "shards").iterdir(), *(root / "index").iterdir()]:
        stray = path.name.startswith(".") or path.name.split(".")[0] not in names
        if stray and OURS.fullmatch(path.name):
            path.unlink()

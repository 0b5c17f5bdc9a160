"""Source in, exact shards out: the same inputs give the same bytes, in parallel, and after any interruption.

A shard is a fixed range of the source's shuffled index, written whole by one part; the parts may run anywhere and in
any order. Rejected pictures make a shard shorter and move nothing else. A finished shard leaves a record in
`DATA/index/`, and is kept by the next run if record and hashes still agree. Shards of a further source come behind
those that are there, which stay as they are.
"""

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fm.data.addresses import settled
from fm.data.manifest import (
    Finished,
    Manifest,
    Reject,
    listed,
    load_manifest,
    make_manifest,
    read_record,
    rejects_of,
    shards_of,
    tar_path,
)
from fm.data.parts import write_shard
from fm.data.planning import Plan, inputs_of, places
from fm.data.preparation import Preparation, sample_bytes
from fm.data.sources import Source
from fm.errors import DataError, UserError
from fm.files import alone, read_json, writable_folder, write_json, write_text
from fm.lineage import differences

Map = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]  # (function, items) -> results in order
Progress = Callable[[int, int], None]
OURS = re.compile(r"\.?[a-z]+-\d{6}\.(tar|idx|tar\.idx|npy|json)(\.\d+\.part)?")
BEGUN = "begun.json"  # in DATA/index: from which source and with which settings
REFUSED = "refused.jsonl"  # what a source that was not added had rejected


def write_shards(
    source: Source,
    out: str | Path,
    settings: Preparation,
    map: Map = map,
    progress: Progress | None = None,
) -> Manifest:
    """Prepares the source into the folder `out` and returns its manifest.

    map(function, parts) yields results in order and may run them anywhere (all are picklable); progress(done, total)
    counts images.

    Raises: DataError for a source without a readable image, a full disk, or a finished data set of other inputs in
    `out`, or one that lacks pictures it is known to have, unless the settings accept that; UserError if `out` cannot
    be written, or another run is at work there.
    """
    root = writable_folder(Path(out).resolve())
    with alone(root / "index"):
        found = source.digest()
        before = _finished_here(root, inputs_of(found, settings))
        _check_begun(root, source, found, settings)
        plan = Plan(source, found, root, settings, classes=before.classes if before else source.classes())
        return _write(plan, before, map, progress)


def add_shards(
    source: Source,
    out: str | Path,
    accept_missing: bool = False,
    map: Map = map,
    progress: Progress | None = None,
) -> Manifest:
    """Extends the data set in `out` by shards of a further source, with its own settings, and returns its new manifest.

    Until that is written the data set is what it was. A source that is in it already is repaired where it is damaged.

    Raises: as `write_shards`; DataError if there is no data set, if the source is in it from before it changed, or if
    its class names would renumber the labels.
    """
    root, before = Path(out).resolve(), load_manifest(out)
    settings = before.settings.model_copy(update={"accept_missing": accept_missing})
    with alone(root / "index"):
        found = source.digest()
        _check_unchanged(source, found, before)
        known = [origin.inputs for origin in before.origins]
        here = known.index(inputs) if (inputs := inputs_of(found, settings)) in known else len(known)
        plan = Plan(source, found, root, settings, before.origins[:here], before.classes)
        return _write(plan, before, map, progress)


def _check_unchanged(source: Source, found: str, before: Manifest) -> None:
    """Raises: DataError if the data set holds the source from before it changed: pictures would be in it twice."""
    for origin in before.origins:
        if settled(origin.source) == settled(source.uri) and origin.digest != found:
            raise DataError(
                "has changed since it was made part of the data set, which would hold its old pictures twice",
                where=source.uri,
                mend="add the new pictures alone, from a folder of another name, or prepare the whole source anew in "
                "another folder",
            )


def _write(plan: Plan, before: Manifest | None, map: Map, progress: Progress | None) -> Manifest:
    """Writes or keeps the plan's shards; those that a finished data set has of other sources stay."""
    faults = [(item.split or "train", item.key, item.fault) for item in plan.items.take(plan.items.faulty())]
    _check_counts(plan, faults)
    _check_space(plan)
    finished: list[Finished] = []
    done = 0
    for _, result in zip(range(len(plan)), map(write_shard, plan), strict=True):
        finished.append(result)
        done += result.shard.images + len(result.rejected)
        if progress:
            progress(done, len(plan.items))
    return _finish(plan, finished, before)


def _finish(plan: Plan, finished: list[Finished], before: Manifest | None) -> Manifest:
    """Writes the manifest, before which the data set is what it was; then the rejects' list, and removes files of ours
    that no shard of this data set owns: what a death leaves of that, the next start mends."""
    root = plan.root
    rejects = rejects_of(finished)
    if not any(one.shard.images for one in finished):
        raise DataError(f"not one of its {len(rejects):,} images can be read ({_said(rejects)})", where=plan.source.uri)
    origin = plan.origin(_check_counts(plan, rejects))
    others = before.origins if before else ()
    here = len(plan.after)
    whole = sorted([*finished, *_others(plan, before)], key=lambda one: (one.split, one.shard.name))
    settings = plan.settings.model_copy(update={"accept_missing": False})  # what was accepted stands in `missing`
    manifest = make_manifest([*others[:here], origin, *others[here + 1 :]], settings, plan.classes, whole)
    write_json(root / "manifest.json", manifest.model_dump(mode="json"))
    write_text(root / "rejected.jsonl", listed(rejects_of(whole)))
    _remove_strays(root, {one.shard.name for one in whole})
    (root / REFUSED).unlink(missing_ok=True)
    return manifest


def _others(plan: Plan, before: Manifest | None) -> list[Finished]:
    """The records of the shards that a finished data set has of other sources.

    Raises: DataError for one that is missing or does not match the manifest.
    """
    if before is None:
        return []
    due = {shard.name: shard for _, shard in shards_of(before)}
    ranges = places([origin.planned for origin in before.origins], plan.settings.shard_images)
    names = [place.name for several in ranges for place in several if place.name not in plan.names]
    found = [read_record(plan.root, name) for name in names]
    for name, record in zip(names, found, strict=True):
        if record is None or (record.shard.images and record.shard != due.get(name)):
            mend = "prepare the source that it came from again (--add, if it was added)"
            raise DataError(f"index/{name}.json is missing or does not match the manifest", str(plan.root), mend)
    return [record for record in found if record]


def _finished_here(root: Path, inputs: str) -> Manifest | None:
    """The finished data set of these inputs, if there is one.

    Raises: DataError for one of other inputs.
    """
    if not (root / "manifest.json").exists():
        return None
    found = load_manifest(root)
    if found.inputs != inputs:
        raise DataError(
            "holds a data set that was made from another source or with other settings",
            where=str(root),
            mend="choose another folder or remove this one",
        )
    return found


def _check_begun(root: Path, source: Source, found: str, settings: Preparation) -> None:
    """Notes what is begun here: shards of something else are not to give way because an option was forgotten.

    Raises: DataError if this folder has shards that were made with other settings, or from another source.
    """
    file = root / "index" / BEGUN
    place = settled(source.uri) if os.path.exists(source.uri) else source.uri  # a path, or one with its scheme
    now = {"source": place, "digest": found, "settings": settings.identity()}
    begun = file.exists() and any((root / "index").glob("*-*.json"))
    try:
        there = read_json(file) if begun else now
        moved = there["source"] != now["source"] and there["digest"] != found
        differing = differences(there["settings"], now["settings"])
    except (UserError, KeyError, TypeError):  # no one's note
        moved, differing = False, []
    if moved or differing:
        what = ", ".join([*differing, *([f"source {there['source']}"] if moved else [])])
        raise DataError(
            f"was begun otherwise ({what}), and its shards would be replaced",
            where=str(root),
            mend="give the same options again, or choose another folder, or remove this one",
        )
    write_json(file, now)


def _check_space(plan: Plan) -> None:
    images = len(plan.items)
    due = images * sample_bytes(plan.settings)
    tars = (tar_path(plan.root, name) for name in plan.names)
    there = sum(path.stat().st_size for path in tars if path.exists())
    free = shutil.disk_usage(plan.root).free
    if due - there > free:
        raise DataError(
            f"{images:,} images need about {due / 1e6:,.1f} MB and {(free + there) / 1e6:,.1f} MB are free",
            where=str(plan.root),
            mend="choose a folder on a larger disk",
        )


def _check_counts(plan: Plan, rejects: list[Reject]) -> dict[str, int]:
    """How many pictures each split lacks of those that it is known to have.

    Raises: DataError if there are such and the settings do not accept it; the rejects are listed then.
    """
    due, counts = Counter(plan.source.expected()), Counter(plan.counts) - Counter(split for split, _, _ in rejects)
    missing = due - counts
    if missing and not plan.settings.accept_missing:
        path = plan.root / (REFUSED if (plan.root / "manifest.json").exists() else "rejected.jsonl")
        write_text(path, listed(rejects))
        raise DataError(
            ", ".join(f"{counts[name]:,} readable pictures in {name} where {due[name]:,} are due" for name in missing)
            + (f" ({_said(rejects)}: see {path})" if rejects else ""),
            where=plan.source.uri,
            mend="fetch or mend what is missing and start again, which keeps whole shards, or give --accept-missing "
            "(data.accept_missing=true)",
        )
    return dict(missing)


def _said(rejects: list[Reject]) -> str:
    """`2 truncated, 1 empty`."""
    return ", ".join(f"{count:,} {reason}" for reason, count in Counter(reason for *_, reason in rejects).most_common())


def _remove_strays(root: Path, names: set[str]) -> None:
    for path in [*(root / "shards").iterdir(), *(root / "index").iterdir()]:
        stray = path.name.startswith(".") or path.name.split(".")[0] not in names
        if stray and OURS.fullmatch(path.name):
            path.unlink()

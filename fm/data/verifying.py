"""Is a prepared data set still what was written? Every file against its hash, and the manifest against the records that
the shards' writers left."""

from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

from fm.data.addresses import is_address
from fm.data.manifest import (
    AGAIN,
    REPAIR,
    Finished,
    Manifest,
    intact,
    listed,
    load_manifest,
    make_manifest,
    read_record,
    record_path,
    rejects_of,
)
from fm.data.planning import inputs_of, places
from fm.errors import DataError


def verify(root: str | Path) -> Manifest:
    """Reads every file of the data set in a folder, on all cores, and returns its manifest.

    Raises: DataError that names the first file that is missing or differs; for an address, which is not read.
    """
    if is_address(root):
        raise DataError("is an address, and only a folder is verified", str(root), "copy it into a folder first")
    root, manifest = Path(root), load_manifest(root)
    planned = places([origin.planned for origin in manifest.origins], manifest.settings.shard_images)
    names = sorted((place.split, place.name) for several in planned for place in several)
    with ThreadPool() as pool:  # hashing leaves the interpreter's lock to the others
        records = list(pool.imap(partial(_record, root), [name for _, name in names]))
    rebuilt = make_manifest(manifest.origins, manifest.settings, manifest.classes, records)
    inputs = [inputs_of(origin.digest, manifest.settings) for origin in manifest.origins]
    if rebuilt != manifest or inputs != [origin.inputs for origin in manifest.origins]:
        raise DataError("was changed by hand: it is not what its shards' records say", f"{root}/manifest.json", AGAIN)
    rejects = root / "rejected.jsonl"
    if not rejects.is_file() or rejects.read_bytes() != listed(rejects_of(records)).encode():
        raise DataError("rejected.jsonl is missing or is not what was written", str(root), REPAIR)
    for tar in sorted((root / "shards").glob("*.tar")):
        if not record_path(root, tar.stem).exists():  # an addition that was broken off has left its record
            raise DataError(f"shards/{tar.name} was not written by `fm prepare`", str(root), "move it elsewhere")
    return manifest


def _record(root: Path, name: str) -> Finished:
    """The record of a shard whose files are whole."""
    record = read_record(root, name)
    if record is None or record.shard.name != name:
        raise DataError(f"index/{name}.json is missing or is not what was written", str(root), REPAIR)
    if fault := intact(root, record.shard):
        raise DataError(fault, where=str(root), mend=REPAIR)
    return record

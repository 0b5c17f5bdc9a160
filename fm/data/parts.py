"""One shard written: its tar, our index, those of others, and the record that lets the next run keep it."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np

from fm.data.decode import Rejected
from fm.data.manifest import Finished, Shard, index_path, intact, read_record, record_path, sidecar_paths, tar_path
from fm.data.planning import Part
from fm.data.preparation import encode, prepare
from fm.data.sidecars import Member, dali, energon
from fm.data.sources import Item
from fm.data.tally import Counting
from fm.data.ustar import UstarWriter
from fm.errors import MachineError
from fm.files import atomic, write_json

ENDINGS = {"raw": "npy", "png": "png"}


class Writing:
    """A shard under way: what has been appended to its tar, and what that adds up to."""

    def __init__(self, part: Part, tar: UstarWriter) -> None:
        self.part, self.tar, self.counting = part, tar, Counting()
        self.index: list[list[int]] = []
        self.samples: list[list[Member]] = []

    def add(self, key: str, item: Item) -> None:
        """Appends one sample.

        Raises: Rejected, and nothing is appended then.
        """
        if item.fault:
            raise Rejected(item.fault)
        part, settings = self.part, self.part.settings
        sample = prepare(part.source.read(item), settings)
        label = -1 if item.label is None else part.labels[item.label]
        width, height = sample.size
        facts = {"key": item.key, "class": item.label, "split": part.split, "width": width, "height": height}
        self.samples.append([])
        row = self._picture(f"{key}.{ENDINGS[settings.encoding]}", sample.pixels)
        if sample.low is not None:
            row += self._picture(f"{key}.low.{ENDINGS[settings.encoding]}", sample.low)
        self._member(f"{key}.cls", str(label).encode())
        self._member(f"{key}.json", json.dumps(facts | item.meta).encode())
        self.index.append([*row[:2], label, *row[2:]])
        self.counting.add(sample.pixels, label, sample.traits)

    def npy(self) -> bytes:
        """Our index as a file."""
        columns = 3 if self.part.settings.low_size is None else 5
        file = io.BytesIO()
        np.save(file, np.array(self.index, "<i8").reshape(-1, columns), allow_pickle=False)
        return file.getvalue()

    def _picture(self, name: str, pixels: np.ndarray) -> list[int]:
        """Where the payload lies: offset and length."""
        data, start = encode(pixels, self.part.settings.encoding)
        return [self._member(name, data) + start, len(data) - start]

    def _member(self, name: str, data: bytes) -> int:
        offset = self.tar.add(name, data)
        self.samples[-1].append(Member(name, offset, len(data)))
        return offset


def write_shard(part: Part) -> Finished:
    """Writes the part's shard, or keeps what an earlier run left if its hashes still agree.

    Raises: MachineError for a full disk; DataError for a source that cannot be read any more.
    """
    inputs = part.identity()
    if kept := _kept(part, inputs):
        return kept
    rejected: list[tuple[str, str]] = []
    try:
        with atomic(tar_path(part.root, part.name)) as file:
            writing = Writing(part, UstarWriter(file))
            for number, item in enumerate(part.items, start=part.first):
                try:
                    writing.add(f"{part.split}-{number:09d}", item)
                except Rejected as error:
                    rejected.append((item.key, error.reason))
            tar_sha256 = writing.tar.close()
        shard = Shard(
            name=part.name,
            images=len(writing.index),
            bytes=writing.tar.bytes,
            sha256=tar_sha256,
            index_sha256=_write(index_path(part.root, part.name), writing.npy()),
            sidecars_sha256=_write_sidecars(part, writing),
        )
        finished = Finished(
            inputs=inputs, split=part.split, shard=shard, tally=writing.counting.tally(), rejected=tuple(rejected)
        )
        write_json(record_path(part.root, part.name), finished.model_dump(mode="json"))
    except OSError as error:
        says = f"shard {part.name} cannot be written ({error.strerror})"
        raise MachineError(says, str(part.root), "make room and start again, which keeps whole shards") from None
    return finished


def _kept(part: Part, inputs: str) -> Finished | None:
    found = read_record(part.root, part.name)
    same = found and found.inputs == inputs and found.shard.name == part.name
    return found if found and same and not intact(part.root, found.shard) else None


def _write_sidecars(part: Part, writing: Writing) -> tuple[str, ...]:
    files = (dali(writing.samples), energon(writing.samples, writing.tar.bytes))
    return tuple(_write(*both) for both in zip(sidecar_paths(part.root, part.name), files, strict=True))


def _write(path: Path, data: bytes) -> str:
    """The SHA-256 of what is written."""
    with atomic(path) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()

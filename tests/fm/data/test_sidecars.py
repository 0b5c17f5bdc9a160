"""What others write for the same tar by their published algorithms: Energon's preparator and DALI's wds2idx."""

import struct
import tarfile

import pytest

from fm.data import Preparation, open_source, write_shards
from fm.data.manifest import sidecar_paths, tar_path


def samples_of(path):
    """[(key, [TarInfo])] in the tar's order, and where the standard library's reader stopped."""
    found = []
    with tarfile.open(path) as tar:
        for member in tar:
            key = member.name.partition(".")[0]
            if not found or found[-1][0] != key:
                found.append((key, []))
            found[-1][1].append(member)
        return found, tar.offset


@pytest.mark.parametrize("settings", [{}, {"encoding": "png", "low_size": 4}])
def test_the_indexes_of_dali_and_energon_are_theirs(settings, folder, tmp_path):
    manifest = write_shards(open_source(folder), tmp_path, Preparation(size=8, shard_images=7, **settings))
    for split in manifest.splits.values():
        for shard in split.shards:
            samples, end = samples_of(tar_path(tmp_path, shard.name))
            dali, energon = sidecar_paths(tmp_path, shard.name)
            assert (dali.name, energon.name) == (f"{shard.name}.idx", f"{shard.name}.tar.idx")
            first, *lines = dali.read_text().splitlines()
            assert first == f"v1.2 {len(samples)}" and len(lines) == len(samples) == shard.images
            for line, (_, members) in zip(lines, samples, strict=True):
                words = [(m.name.partition(".")[2], str(m.offset_data), str(m.size), m.name) for m in members]
                assert line.split(" ") == [word for member in words for word in member]
            offsets = struct.unpack(f"<{shard.images + 1}Q", energon.read_bytes())
            assert offsets == (*(members[0].offset for _, members in samples), end)

"""The same pictures in every form that data sets come in: each function writes what the original's makers wrote.

pictures: class name -> list of uint8 (side, side, 3) arrays.
"""

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def tar(path, members):
    """members: (name, bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members))
    return path


def tar_bytes(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def folder(root, pictures):
    for name, arrays in pictures.items():
        for number, pixels in enumerate(arrays):
            (root / name).mkdir(parents=True, exist_ok=True)
            (root / name / f"{number}.png").write_bytes(png(pixels))
    return root


def webdataset(root, pictures):
    samples = [(name, pixels) for name, arrays in pictures.items() for pixels in arrays]
    members = [
        member
        for number, (name, pixels) in enumerate(samples)
        for member in ((f"{number:05d}.png", png(pixels)), (f"{number:05d}.cls", name.encode()))
    ]
    tar(root / "x-000000.tar", members[: len(members) // 4 * 2])
    tar(root / "x-000001.tar", members[len(members) // 4 * 2 :])
    return root


def imagenet_train(path, pictures):
    """A tar of one tar a class; one picture of ImageNet is a PNG named .JPEG, here they all are."""
    inner = {
        f"{name}.tar": tar_bytes([(f"{name}_{n}.JPEG", png(pixels)) for n, pixels in enumerate(arrays)])
        for name, arrays in pictures.items()
    }
    return tar(path, inner.items())


def imagenet_validation(root, pictures, ids):
    """The plain tar and the development kit, which gives numbers (ids: class name -> number) in the pictures' order."""
    from scipy.io import savemat

    samples = [(name, pixels) for name, arrays in pictures.items() for pixels in arrays]
    order = np.random.default_rng(1).permutation(len(samples))
    names = [f"ILSVRC2012_val_{number + 1:08d}.JPEG" for number in range(len(samples))]
    tar(root / "ILSVRC2012_img_val.tar", [(names[n], png(samples[i][1])) for n, i in enumerate(order)][::-1])
    synsets = np.zeros(len(ids), [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")])
    for row, (name, number) in enumerate(ids.items()):
        synsets[row] = (number, name, f"the {name}, a thing", 0)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    truth = "".join(f"{ids[samples[i][0]]}\n" for i in order).encode()
    kit = [("data/meta.mat", meta.getvalue()), ("data/ILSVRC2012_validation_ground_truth.txt", truth)]
    members = [(f"ILSVRC2012_devkit_t12/{name}", data) for name, data in kit]
    (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(gzip.compress(tar_bytes(members)))
    return dict(kit)


def rows(pictures, ids):
    """(n, 3 s s) uint8 rows of planes, and their numbers."""
    data = [pixels.transpose(2, 0, 1).reshape(-1) for arrays in pictures.values() for pixels in arrays]
    return np.stack(data), [ids[name] for name, arrays in pictures.items() for _ in arrays]


def downsampled(root, pictures, ids, save=np.savez, batches=2, prefix="train_data_batch_", mean=True):
    """ImageNet 32/64: batches as .npz and the list of what their numbers mean."""
    root.mkdir(parents=True, exist_ok=True)
    data, labels = rows(pictures, ids)
    for number in range(batches):
        part = slice(number, None, batches)
        content = {"data": data[part], "labels": np.array(labels[part])}
        name = f"{prefix}{number + 1 if batches > 1 else ''}"
        save(root / f"{name}.npz", **content, **({"mean": data.mean(0)} if mean else {}))
    lines = [f"{name} {number} thing_{number}\n" for name, number in ids.items()]
    (root / "map_clsloc.txt").write_text("".join(lines))
    return root


def python_2_pickle(value):
    """As Python 2 wrote it: texts and arrays as byte strings, numpy's module by its old name."""

    class Pickler(pickle._Pickler):
        dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

        def save_string(self, value):
            data = value.encode() if isinstance(value, str) else value
            self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
            self.memoize(value)

        dispatch[bytes] = dispatch[str] = save_string

    file = io.BytesIO()
    Pickler(file, 2).dump(value)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def downsampled_pickles(root, pictures, ids, dump=python_2_pickle):
    root.mkdir(parents=True, exist_ok=True)
    data, labels = rows(pictures, ids)
    for number in range(2):
        part = slice(number, None, 2)
        content = {"data": data[part], "labels": labels[part], "mean": data.mean(0)}
        (root / f"train_data_batch_{number + 1}").write_bytes(dump(content))
    lines = [f"{name} {number} thing_{number}\n" for name, number in ids.items()]
    (root / "map_clsloc.txt").write_text("".join(lines))
    return root


def cifar10(path: Path, train, test, binary, dump=python_2_pickle):
    """CIFAR-10's archive from two sets of pictures of the same classes."""
    names = list(train)
    ids = {name: number for number, name in enumerate(names)}
    batches = {f"data_batch_{n + 1}": [part[n::5] for part in rows(train, ids)] for n in range(5)}
    batches["test_batch"] = list(rows(test, ids))
    if binary:
        members = [
            (f"{name}.bin", b"".join(bytes([label]) + row.tobytes() for row, label in zip(data, labels, strict=True)))
            for name, (data, labels) in batches.items()
        ]
        members.append(("batches.meta.txt", "".join(f"{name}\n" for name in names).encode() + b"\n"))
    else:
        content = {
            name: {
                "batch_label": f"{name} of 5",
                "labels": list(labels),
                "data": data,
                "filenames": ["x.png"] * len(data),
            }
            for name, (data, labels) in batches.items()
        }
        members = [(name, dump(value)) for name, value in content.items()]
        members.append(("batches.meta", dump({"num_cases_per_batch": 9, "label_names": names, "num_vis": 3072})))
    top = "cifar-10-batches-bin" if binary else "cifar-10-batches-py"
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = tar_bytes([(f"{top}/{name}", data) for name, data in [*members, ("readme.html", b"<html>")]])
    path.write_bytes(gzip.compress(packed, 1))
    return path

"""From JPEGs to shards: against bare decoding, against two recipes in use, and the memory that it takes.

The pictures are pieces of 500 x 375 of scikit-image's photographs, about 80 kB each, in a tar of class tars as ImageNet
is downloaded; the peers, which read no such tar, have them as files.
"""

import io
import json
import multiprocessing
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image

from fm.data import Preparation, open_source, write_shards
from fm.data.sources.photos import PHOTOGRAPHS, _photograph
from fm.data.ustar import BLOCK, UstarWriter, header
from tests.benchmarks.timing import Row, all_in_turns

SIZE, WIDTH, HEIGHT = 64, 500, 375
EACH = 125  # pictures of a class
GOALS = {"raw": 0.9, "png": 0.62}
MEMBER, MEMBERS, INNER = 1_000_000, 1_000, 10  # bytes of a member; members of an inner tar; inner tars: 10 GB
LISTED = 100_000


def pictures() -> dict[str, list[bytes]]:
    """JPEGs by class, from the same places each time."""
    rng, found = np.random.default_rng(0), {}
    for name in PHOTOGRAPHS:
        image = _photograph(name)
        scale = max(1, WIDTH / image.width, HEIGHT / image.height)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        corners = rng.integers((0, 0), (image.width - WIDTH + 1, image.height - HEIGHT + 1), (EACH, 2)).tolist()
        found[name] = [jpeg(image.crop((x, y, x + WIDTH, y + HEIGHT))) for x, y in corners]
    return found


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=96)
    return file.getvalue()


def packing(folder: Path) -> Iterator[Row]:
    """Images per CPU second, one thread (the resizing pool has two processes, whose CPU seconds count)."""
    classes = pictures()
    held = [data for group in classes.values() for data in group]
    files = as_files(folder / "files", classes)
    source = open_source(tar_of_tars(folder / "x.tar", classes))
    items = list(source.items())

    def in_folder(work: Callable[[Path], object]) -> None:
        work(Path(tempfile.mkdtemp(dir=folder)))  # nothing is removed while time is taken

    def ours(encoding: str, method: str = "box") -> Callable[[], None]:
        settings = Preparation(size=SIZE, method=method, encoding=encoding)
        return lambda: in_folder(lambda out: write_shards(source, out, settings))

    works: dict[str, Callable[[], object]] = {
        "limit": lambda: decoded(held),
        "limit from disk": lambda: decoded(source.read(item) for item in items),
        "raw": ours("raw"),
        "png": ours("png"),
        "scripts": lambda: in_folder(lambda out: resized_then_packed(files, out)),
        "raw, center-crop": ours("raw", "center-crop"),
        "edm2": lambda: in_folder(lambda out: zipped(files, out)),
    }
    rate = {name: len(held) / taken for name, taken in all_in_turns(works).items()}

    def row(mine: str, peer: str, says: str) -> Row:
        ours = f"shards written, {mine}, {SIZE} px: {rate[mine]:,.0f} images per CPU s"
        return ours, f"{says} {rate[peer]:,.0f}", rate[mine] / rate[peer]

    for encoding, goal in GOALS.items():
        yield row(encoding, "limit", f"decode + BOX alone, of bytes in memory (goal {goal})")
        yield row(encoding, "limit from disk", "the same with reading")
    for encoding in GOALS:
        yield row(encoding, "scripts", "pool of 2 resizing to PNG files, then ShardWriter (goal 2)")
    yield row("raw, center-crop", "edm2", "EDM2's recipe: centre crop, stored PNG, ZIP")

    yield from by_the_clock(folder, {name: group * 4 for name, group in classes.items()})


def by_the_clock(folder: Path, classes: dict[str, list[bytes]]) -> Iterator[Row]:
    """Two processes on two cores, of more pictures, for starting them takes a moment."""
    source = open_source(tar_of_tars(folder / "more.tar", classes))
    files = as_files(folder / "more", classes)

    def ours() -> None:
        out = Path(tempfile.mkdtemp(dir=folder))
        with multiprocessing.get_context("fork").Pool(2) as pool:
            write_shards(source, out, Preparation(size=SIZE, shard_images=EACH), map=pool.imap)

    def scripts() -> None:
        resized_then_packed(files, Path(tempfile.mkdtemp(dir=folder)))

    rounds = [(clock(ours), clock(scripts)) for _ in range(5)]
    mine, theirs = (len(files) / min(taken) for taken in zip(*rounds, strict=True))
    says = f"shards written, raw, {SIZE} px, 2 processes: {mine:,.0f} images per s"
    yield says, f"the same two scripts, by the clock (goal 2) {theirs:,.0f}", mine / theirs


def as_files(folder: Path, classes: dict[str, list[bytes]]) -> list[Path]:
    return [
        saved(folder / name / f"{number}.jpg", data)
        for name, group in classes.items()
        for number, data in enumerate(group)
    ]


def clock(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def saved(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def tar_of_tars(path: Path, classes: dict[str, list[bytes]]) -> Path:
    with open(path, "wb") as file:
        outer = UstarWriter(file)
        for name, group in classes.items():
            inside = io.BytesIO()
            inner = UstarWriter(inside)
            for number, data in enumerate(group):
                inner.add(f"{name}_{number}.JPEG", data)
            inner.close()
            outer.add(f"{name}.tar", inside.getvalue())
        outer.close()
    return path


def decoded(held: Iterable[bytes]) -> None:
    """The limit: no checks, no copies, nothing written."""
    for data in held:
        Image.open(io.BytesIO(data)).resize((SIZE, SIZE), Image.Resampling.BOX)


def resized(job: tuple[Path, Path]) -> None:
    source, target = job
    Image.open(source).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX).save(target)


def resized_then_packed(files: list[Path], out: Path) -> None:
    """The usual two scripts."""
    import webdataset

    jobs = [(path, out / path.parent.name / f"{path.stem}.png") for path in files]
    for folder in {target.parent for _, target in jobs}:
        folder.mkdir()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for _ in pool.imap_unordered(resized, jobs, chunksize=16):
            pass
        pool.close()
        pool.join()
    labels = {name: label for label, name in enumerate(sorted({path.parent.name for path in files}))}
    with webdataset.ShardWriter(str(out / "x-%06d.tar"), maxcount=1000, verbose=0) as writer:
        for number, (_, target) in enumerate(jobs):
            label = labels[target.parent.name]
            writer.write({"__key__": f"{number:08d}", "png": target.read_bytes(), "cls": label})


def zipped(files: list[Path], out: Path) -> None:
    """Centre crop by halving and bicubic, PNG without compression, stored in a ZIP beside a list of labels."""
    classes = sorted({path.parent.name for path in files})
    labels = []
    with zipfile.ZipFile(out / "x.zip", "w", zipfile.ZIP_STORED) as archive:
        for number, path in enumerate(files):
            pixels = np.array(Image.open(path).convert("RGB"))
            image = Image.fromarray(pixels)
            while min(image.size) >= 2 * SIZE:
                image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
            scale = SIZE / min(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
            pixels = np.array(image)
            top, left = (pixels.shape[0] - SIZE) // 2, (pixels.shape[1] - SIZE) // 2
            file = io.BytesIO()
            Image.fromarray(pixels[top : top + SIZE, left : left + SIZE]).save(file, "PNG", compress_level=0)
            name = f"{number // 1000:05d}/img{number:08d}.png"
            archive.writestr(name, file.getbuffer())
            labels.append([name, classes.index(path.parent.name)])
        archive.writestr("dataset.json", json.dumps({"labels": labels}))


def memory(folder: Path) -> Iterator[Row]:
    """What a process grows by, from its imports on: a worker over 10 GB of tar, and the driver by the picture."""
    long = long_tar(folder / "long.tar")
    many = tar_of_tars(folder / "many.tar", {f"n{name:08d}": [b"x"] * (LISTED // 100) for name in range(100)})
    grown, seconds = alone(packed, long, folder / "long")
    size = long.stat().st_size
    ours = f"{size / 1e9:.1f} GB of tar packed in {seconds:.0f} CPU s: grew by {grown / 1e6:.0f} MB"
    yield ours, "limit 200 MB", grown / 200e6
    grown, seconds = alone(planned, many, folder / "many")
    ours = f"driver, an image: {seconds / LISTED * 1e6:.0f} us and {grown / LISTED:.0f} bytes"
    yield ours, "73 bytes of the listing", grown / LISTED / 73


def alone(work: Callable[[Path, Path], None], source: Path, out: Path) -> tuple[int, float]:
    """(bytes grown by at the peak, CPU seconds) of the work in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, (work, source, out))


def measured(work: Callable[[Path, Path], None], source: Path, out: Path) -> tuple[int, float]:
    before, start = memory_bytes("VmRSS"), time.process_time()
    work(source, out)
    return memory_bytes("VmHWM") - before, time.process_time() - start


def memory_bytes(name: str) -> int:
    """This process's, now (VmRSS) or at its peak (VmHWM: getrusage gives that of the parent too)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[name].split()[0]) * 1024


def packed(source: Path, out: Path) -> None:
    write_shards(open_source(source), out, Preparation(size=SIZE))


def planned(source: Path, out: Path) -> None:
    """As far as the first shard."""
    with suppress(KeyboardInterrupt):
        write_shards(open_source(source), out, Preparation(size=SIZE), map=interrupted)


def interrupted(function: object, parts: object) -> NoReturn:
    raise KeyboardInterrupt


def long_tar(path: Path) -> Path:
    """Ten class tars of 1 GB in one. A member is a photograph and zeros behind it, which decoders do not look at: a
    hole in the file, so that it takes little disk."""
    held = [data for group in pictures().values() for data in group]
    step = BLOCK + -(-MEMBER // BLOCK) * BLOCK
    inner = MEMBERS * step + 2 * BLOCK
    with open(path, "wb") as file:
        for name in range(INNER):
            start = name * (BLOCK + inner)
            file.seek(start)
            file.write(header(f"n{name:08d}.tar", inner))
            for number in range(MEMBERS):
                file.seek(start + BLOCK + number * step)
                file.write(header(f"n{name:08d}_{number}.JPEG", MEMBER) + held[number % len(held)])
        file.truncate(INNER * (BLOCK + inner) + 2 * BLOCK)
    return path

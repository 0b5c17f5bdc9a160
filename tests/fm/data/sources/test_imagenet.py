import io
import tarfile
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fm.data import Preparation, addresses, open_source, write_shards
from fm.data.decode import REASONS, Rejected
from fm.data.sources import imagenet
from fm.data.wnids import DEVKIT
from fm.errors import DataError, MachineError, SettingsError
from tests.fm.data import forms
from tests.fm.data.serving import served

IDS = {"n03": 1, "n01": 2, "n02": 3}


@pytest.fixture
def pictures(noises):
    return {name: noises(4, seed=number) for name, number in IDS.items()}


def pixels(source, item):
    return np.asarray(Image.open(io.BytesIO(source.read(item)))).tobytes()


def test_training_and_validation_archives_as_downloaded(tmp_path, pictures, noises):
    others = {name: noises(3, seed=number + 50) for name, number in IDS.items()}
    forms.imagenet_train(tmp_path / imagenet.TRAIN, pictures)
    forms.imagenet_validation(tmp_path, others, IDS)
    source = open_source(tmp_path)
    found = {split: {} for split in ("train", "test")}
    for item in source.items():
        found[item.split].setdefault(item.label, set()).add(pixels(source, item))
    for split, due in (("train", pictures), ("test", others)):
        assert found[split] == {name: {picture.tobytes() for picture in arrays} for name, arrays in due.items()}
    assert source.items()[0].key == "n01/n01_0.JPEG" and source.items()[-1].key == "val/ILSVRC2012_val_00000009.JPEG"
    assert source.expected() == {"train": 1_281_167, "test": 50_000}
    manifest = write_shards(source, tmp_path / "out", Preparation(size=4, accept_missing=True))
    assert manifest.origins[0].missing == {"train": 1_281_155, "test": 49_991}
    assert manifest.classes == ("n01", "n02", "n03") and {k: v.images for k, v in manifest.splits.items()} == {
        "train": 12,
        "test": 9,
    }


def test_any_tar_of_tars_is_known(tmp_path, pictures, s3):
    path = forms.imagenet_train(tmp_path / "flowers.tar", pictures)
    source = open_source(path)
    assert {item.label for item in source.items()} == set(IDS) and source.expected() == {}
    s3.put(str(path), "s3://bucket/flowers.tar")
    far = open_source("imagenet:s3://bucket/flowers.tar")
    assert far.items() == source.items() and far.read(far.items()[5]) == source.read(source.items()[5])
    assert not isinstance(open_source(forms.webdataset(tmp_path / "w", pictures) / "x-000000.tar"), imagenet.ImageNet)


def test_the_labels_of_the_validation_pictures(tmp_path, pictures):
    forms.imagenet_validation(tmp_path, pictures, IDS)
    listing, digest = open_source(tmp_path).items(), open_source(tmp_path).digest()
    kit = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    kit.rename(tmp_path / "kit.tar.gz")
    with pytest.raises(
        DataError, match=r"classes are in a file of their own; put ILSVRC2012_devkit_t12.tar.gz beside it"
    ):
        open_source(tmp_path)
    source = open_source(f"imagenet:{tmp_path}?labels={tmp_path}/kit.tar.gz")
    assert source.items() == listing and source.digest() == digest
    (tmp_path / "list.txt").write_text("n01\n" * 11)
    with pytest.raises(DataError, match=r"11 words in .*list.txt, a class a line, for 12 pictures"):
        open_source(f"imagenet:{tmp_path}?labels={tmp_path}/list.txt").items()
    with pytest.raises(SettingsError, match="unknown option 'label'; did you mean 'labels'"):
        open_source(f"imagenet:{tmp_path}?label=x")
    with pytest.raises(DataError, match=r"no ILSVRC2012_img_train.tar or"):
        open_source(f"imagenet:{tmp_path}/none")


def test_the_kit_lies_beside_the_archive_at_its_address(tmp_path, pictures, s3):
    kit = forms.imagenet_validation(tmp_path, pictures, IDS)
    here = open_source(tmp_path)
    places = {"packed": ["ILSVRC2012_devkit_t12.tar.gz"], "unpacked": [f"ILSVRC2012_devkit_t12/{name}" for name in kit]}
    for place, names in places.items():
        folder = tmp_path / place
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            packed = name.endswith(".gz")
            (folder / name).write_bytes((tmp_path / name).read_bytes() if packed else kit[name.partition("/")[2]])
        (folder / imagenet.VALIDATION).write_bytes((tmp_path / imagenet.VALIDATION).read_bytes())
        s3.put(f"{folder}/", f"s3://bucket/{place}/", recursive=True)
        with served(folder) as root:
            for base in (root, f"s3://bucket/{place}"):
                for address in (f"{base}/{imagenet.VALIDATION}", f"imagenet:{base}"):
                    there = open_source(address)
                    assert there.items() == here.items() and there.read(there.items()[0]) == here.read(here.items()[0])


def test_no_kit_at_an_address(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(addresses, "PAUSES_S", (0,))
    forms.imagenet_validation(tmp_path, pictures, IDS)
    says = r"img_val.tar: its classes are in a file of their own; put ILSVRC2012_devkit_t12.tar.gz beside it or add"
    away, cannot = {f"{DEVKIT}.tar.gz": [503] * 99}, r"t12.tar.gz: cannot be read .*503"  # which is not "not there"
    with served(tmp_path, away) as root, pytest.raises(MachineError, match=cannot):
        open_source(f"{root}/{imagenet.VALIDATION}")
    with served(tmp_path, key="sig=") as root, pytest.raises(DataError, match=says) as raised:
        open_source(f"{root}/{imagenet.VALIDATION}?sig=SECRET")
    assert "SECRET" not in str(raised.value)
    (tmp_path / f"{DEVKIT}.tar.gz").unlink()
    with served(tmp_path) as root, pytest.raises(DataError, match=says):
        open_source(f"{root}/{imagenet.VALIDATION}")


def test_nothing_of_a_signature_is_written(tmp_path, pictures):
    """Not the archives' nor the kit's, and it decides nothing: signed again it is the same source."""
    forms.imagenet_train(tmp_path / "in" / imagenet.TRAIN, pictures)
    forms.imagenet_validation(tmp_path / "in", pictures, IDS)
    how = Preparation(size=4, accept_missing=True)
    with served(tmp_path / "in", key="sig=") as root:
        kit = quote(f"{root}/{DEVKIT}.tar.gz?sig=SECRET", safe="")
        archives = (f"{root}/{name}?sig=SECRET" for name in (imagenet.TRAIN, imagenet.VALIDATION))
        for number, address in enumerate(archives):
            source, again = (open_source(f"{a}&labels={kit}") for a in (address, address.replace("SECRET", "other")))
            assert isinstance(source, imagenet.ImageNet) and source.expected()
            made = write_shards(source, tmp_path / f"out{number}", how)
            assert (made.images, list(made.splits)) == (12, [("train", "test")[number]])
            assert source.digest() == again.digest() and source.uri == again.uri
    for path in (path for path in tmp_path.glob("out*/**/*") if path.is_file()):
        assert b"SECRET" not in path.read_bytes() and b"sig=" not in path.read_bytes(), path


def test_a_damaged_inner_archive_costs_its_own_rest_alone(tmp_path, pictures):
    def packed(start, name):
        return forms.tar_bytes([(f"{start}_{i}.JPEG", forms.png(p)) for i, p in enumerate(pictures[name])])

    cut = 512 * 5
    forms.tar(
        tmp_path / "in" / "x.tar",
        [
            ("n01.tar", packed("n01", "n01")),
            ("n02.tar", packed("n02", "n02")[:cut]),
            ("n03.tar", b"<html>404</html>" * 60),
            ("../n04.tar", packed("../x", "n03")),
            ("n01.tar", packed("n01", "n03")),
            ("notes.txt", b"nothing"),
        ],
    )
    manifest = write_shards(open_source(f"imagenet:{tmp_path}/in/x.tar"), tmp_path / "out", Preparation(size=4))
    whole = cut // (512 + -(-len(forms.png(pictures["n02"][0])) // 512) * 512)
    assert manifest.rejected == {"damaged-archive": 2, "duplicate": 4, "unsafe-name": 1}
    assert manifest.images == 4 + whole and manifest.classes == ("n01", "n02")
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}


def test_a_cut_outer_archive_is_refused(tmp_path, pictures):
    path = forms.imagenet_train(tmp_path / imagenet.TRAIN, pictures)
    path.write_bytes(path.read_bytes()[:15_000])
    with pytest.raises(
        DataError, match=r"ILSVRC2012_img_train.tar: member n0\d.tar ends early at byte 15,000; download it again"
    ):
        open_source(path).items()
    path.write_text("<html>" * 200)
    with pytest.raises(DataError, match=r"is not a whole tar archive .*; download it again"):
        open_source(path)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_damage_anywhere_is_a_list_or_one_sentence(tmp_path, pictures, data):
    content = forms.imagenet_train(tmp_path / "whole.tar", pictures).read_bytes()
    at = data.draw(st.integers(0, 6000) | st.sampled_from([0, 124, 156, 512, 636, 668]))
    patch = data.draw(st.binary(min_size=1, max_size=20))
    path = tmp_path / imagenet.TRAIN
    path.write_bytes(content[:at] + patch + content[at + data.draw(st.integers(0, 600)) :])
    try:
        source = imagenet.open_uri(str(path))
        items = source.items()
    except DataError as error:
        assert "download it again" in str(error) or "classes are in a file" in str(error)
        return
    for item in items:
        assert item.fault in ("", *REASONS)
        try:
            source.read(item)
        except Rejected as rejected:
            assert rejected.reason in REASONS


def test_names_that_lead_elsewhere_are_rejected(tmp_path, noises):
    one, two, three = map(forms.png, noises(3))
    inner = [("../n01_0.JPEG", one), ("/n01_1.JPEG", two), ("n01_2..JPEG", three)]
    source = open_source(forms.tar(tmp_path / "x.tar", [("n01.tar", forms.tar_bytes(inner))]))
    assert [item.fault for item in source.items()] == ["unsafe-name", "unsafe-name", ""]


def test_nothing_beside_the_classes_disappears(tmp_path, noises):
    one, two, three = map(forms.png, noises(3))
    members = [("n1.tar", forms.tar_bytes([("a.png", one)])), ("n3.TAR", forms.tar_bytes([("c.png", two)]))]
    path = forms.tar(tmp_path / "x.tar", [*members, ("loose.png", three)])
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("n2.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "n1.tar"
        archive.addfile(link)
    assert [(item.key, item.label, item.fault) for item in open_source(path).items()] == [
        ("loose.png", None, ""),
        ("n1/a.png", "n1", ""),
        ("n2.tar", None, "not-a-file"),
        ("n3/c.png", "n3", ""),
    ]

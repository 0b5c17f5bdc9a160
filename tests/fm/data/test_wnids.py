import pytest

from fm.data.wnids import DEVKIT, TRUTH, beside, by_number, validation_labels
from fm.errors import DataError
from tests.fm.data import forms

IDS = {"n03": 1, "n01": 2, "n02": 3}


@pytest.fixture
def kit(tmp_path, noises):
    pictures = {name: noises(2, seed=number) for name, number in IDS.items()}
    return forms.imagenet_validation(tmp_path, pictures, IDS)


def test_the_kit_packed_unpacked_and_in_pieces(tmp_path, kit):
    packed = tmp_path / f"{DEVKIT}.tar.gz"
    due = validation_labels(str(packed))
    assert sorted(due) == ["n01", "n01", "n02", "n02", "n03", "n03"] and due != sorted(due)
    for folder, prefix in ((tmp_path / "pieces", ""), (tmp_path / DEVKIT, "data")):
        (folder / prefix).mkdir(parents=True)
        for name, data in kit.items():
            (folder / prefix / name.rpartition("/")[2]).write_bytes(data)
        assert validation_labels(str(folder)) == due
    assert validation_labels(str(tmp_path / "pieces" / TRUTH)) == due
    assert (
        beside(str(tmp_path)) == str(packed)
        and beside(f"{tmp_path}/pieces") == f"{tmp_path}/pieces/{TRUTH}"
        and beside(f"{tmp_path}/none") is None
    )
    (tmp_path / "wnids.txt").write_text("\n".join(due))
    assert validation_labels(str(tmp_path / "wnids.txt")) == due


def test_what_is_no_kit(tmp_path, kit):
    (tmp_path / "numbers.txt").write_text("3\n1\n")
    (tmp_path / "page.tar.gz").write_text("<html>")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "meta.mat").write_bytes(kit["data/meta.mat"])
    (tmp_path / "meta" / TRUTH).write_text("4\n")
    for name, says in [
        ("numbers.txt", "has numbers, which need the meta.mat"),
        ("page.tar.gz", "is not a whole archive"),
        ("none.txt", "no such file"),
        (f"meta/{TRUTH}", "class 4 is not in its meta.mat"),
    ]:
        with pytest.raises(DataError, match=says):
            validation_labels(str(tmp_path / name))
    (tmp_path / "meta" / "meta.mat").write_bytes(kit["data/meta.mat"][:200])
    with pytest.raises(DataError, match=r"meta.mat cannot be read"):
        validation_labels(str(tmp_path / "meta"))
    (tmp_path / "meta" / TRUTH).unlink()
    with pytest.raises(DataError, match="holds no ILSVRC2012_validation_ground_truth"):
        validation_labels(str(tmp_path / "meta"))


def test_the_list_of_the_downsampled_batches(tmp_path):
    path = tmp_path / "map_clsloc.txt"
    path.write_text("n02119789 1 kit_fox\nn02100735 2 English_setter\n\n")
    assert by_number(path) == {1: "n02119789", 2: "n02100735"}
    path.write_text("kit fox\n")
    with pytest.raises(DataError, match="is not a list of"):
        by_number(path)
    with pytest.raises(DataError, match="cannot be read"):
        by_number(tmp_path / "none")

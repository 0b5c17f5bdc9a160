from fm.data import describe, open_source


def test_photos():
    summary = describe(open_source("photos:?tiles=6"))
    assert summary.images == 8 * 7 and summary.splits == {"train": 48, "test": 8}
    assert set(summary.classes.values()) == {7} and len(summary.classes) == 8
    assert summary.smallest == (48, 48) and summary.largest == (96, 96) and summary.unreadable == 0


def test_a_folder_with_a_bad_file(folder):
    (folder / "a" / "bad.png").write_bytes(b"?")
    summary = describe(open_source(folder))
    assert summary.images == summary.looked_at == 61 and summary.unreadable == 1
    assert summary.splits == {"none": 61} and summary.classes == {"a": 21, "b": 20, "c": 20}
    assert summary.smallest == summary.median == summary.largest == (24, 20)


def test_a_prepared_data_set(photos):
    summary = describe(open_source(photos))
    assert summary.splits == {"train": 192, "test": 32} and summary.median == (16, 16) and summary.unreadable == 0

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fm.data.listing import HEAD_BYTES, Item, Listing, listed

words = st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
paths = st.builds(str.__add__, st.sampled_from(["", "a" * HEAD_BYTES, "é" * HEAD_BYTES, "a" * (HEAD_BYTES - 1)]), words)
items = st.builds(
    Item,
    key=paths | words,
    label=st.none() | words,
    split=st.none() | st.sampled_from(["train", "test"]),
    meta=st.just({}) | st.dictionaries(words, st.integers(), max_size=1),
    at=st.just(()) | st.tuples(st.integers(0, 2**62), st.integers(0, 2**62)) | st.tuples(words),
    fault=st.sampled_from(["", "empty"]),
)


@given(st.lists(items, unique_by=lambda item: item.key))
def test_a_listing_is_the_sorted_items(given):
    listing, due = listed(iter(given)), sorted(given, key=lambda item: item.key)
    assert list(listing) == due and len(listing) == len(due)
    assert list(pickle.loads(pickle.dumps(listing))) == due
    assert (
        list(listing[1::2]) == due[1::2] and list(listing.take([len(due) - 1, 0] if due else [])) == due[-1:] + due[:1]
    )
    assert listing == listed(reversed(given))


@given(st.lists(items))
def test_of_one_key_the_first_counts(given):
    seen = set()
    for item, found in zip(sorted(given, key=lambda item: item.key), listed(given), strict=True):
        if item.key in seen:
            assert (found.key, found.label, found.fault) == (item.key, None, "duplicate")
        else:
            assert found == item
        seen.add(item.key)


def test_a_listing_is_small():
    listing = listed(
        Item(f"n{i % 1000:08d}/n{i % 1000:08d}_{i}.JPEG", f"n{i % 1000:08d}", "train", at=(0, i, 99))
        for i in range(9999)
    )
    assert len(pickle.dumps(listing)) < 75 * len(listing) and not listing.odd


def test_places_that_are_none():
    listing = listed([Item("a"), Item("b")])
    assert listing[-1].key == "b" and isinstance(listing[:1], Listing)
    for place in (2, -3):
        with pytest.raises(IndexError):
            listing[place]
    assert listing != listed([Item("a")]) and listing != ["a", "b"]


def test_it_says_its_labels_and_splits():
    items = (Item("a", "x", "train"), Item("c", None, "test"), Item("b", "v", "train"), Item("d", at=("odd",)))
    listing = listed(items)
    assert listing.labels() == ["v", "x"] and listing.take([3, 0]).labels() == ["x"]
    assert {split: places.tolist() for split, places in listing.by_split().items()} == {
        "train": [0, 1],
        "test": [2],
        None: [3],
    }
    assert set(listing.take([2]).words) == {"test", ""}

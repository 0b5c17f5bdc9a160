import pickle

from hypothesis import given
from hypothesis import strategies as st

from fm.data import Item, Preparation, Source, open_source
from fm.data.listing import listed
from fm.data.planning import Plan, split_items

keys = st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=60)


def split(items, holdout):
    """Split -> the keys of its items."""
    found = listed(items)
    return {name: [item.key for item in found.take(group)] for name, group in split_items(found, holdout).items()}


@given(keys, st.floats(0.01, 0.99))
def test_a_source_without_splits_gets_both(names, holdout):
    groups = split(map(Item, names), holdout)
    assert sorted(key for group in groups.values() for key in group) == sorted(names)
    assert set(groups) == ({"train", "test"} if len(names) > 1 else {"train"})


@given(keys, keys)
def test_most_pictures_keep_their_split_when_others_come(some, more):
    """By hash, so only the one that a split needs at least may change sides."""
    before, after = split(map(Item, some), 0.3), split(map(Item, some | more), 0.3)
    moved = set(before.get("test", [])) ^ (set(after.get("test", [])) & some)
    assert len(moved) <= 1


def test_the_held_out_share_is_about_what_was_asked():
    groups = split((Item(f"picture {i}") for i in range(10_000)), 0.1)
    assert abs(len(groups["test"]) - 1000) < 5 * 30


def test_a_source_keeps_its_own_splits():
    items = [Item("b", split="test"), Item("c"), Item("a", split="train")]
    assert split(items, 0.5) == {"train": ["a", "c"], "test": ["b"]}
    for own in ("train", "test"):  # validation pictures alone are no training pictures
        assert set(split((Item(f"{i}", split=own) for i in range(100)), 0.1)) == {own}


class Numbers(Source):
    """Pictures that are only listed."""

    uri = "numbers"

    def found(self):
        return (Item(f"{n % 1000:08d}/{n:08d}.JPEG", f"{n % 1000:08d}", at=(0, n, n)) for n in range(200_000))

    def read(self, item):
        raise AssertionError("planning reads no picture")

    def digest(self):
        return "numbers"


def test_a_plan_is_small_and_a_part_carries_its_own_items_alone(tmp_path):
    plan = Plan(Numbers(), "digest", tmp_path, Preparation(shard_images=100))
    assert len(plan) > 2000 and len(plan.items) == 200_000 == len({i.key for part in plan for i in part.items})
    assert len(pickle.dumps(plan)) < 100 * len(plan.items)
    assert len(pickle.dumps(plan[5])) < 20_000 and len(plan[5].items) == 100
    assert plan[5].labels == {item.label: plan.classes.index(item.label) for item in plan[5].items}


def test_a_part_of_a_folder_is_known_by_its_own_pictures(folder, tmp_path, png):
    plan = Plan(open_source(folder), "digest", tmp_path, Preparation(shard_images=7))
    before = [part.identity() for part in plan]
    assert len(set(before)) == len(before)
    (folder / plan[3].items[2].key).write_bytes(png(99))
    after = [part.identity() for part in plan]
    assert [one for one, other in zip(before, after, strict=True) if one != other] == [before[3]]
    (folder / plan[3].items[2].key).unlink()
    assert plan[3].identity() not in (before[3], after[3])


class Numbered(Numbers):
    numbered = True

    def found(self):
        return (Item(f"{n:012d}", split="train", at=(n,)) for n in range(30, -1, -1))


def test_samples_of_a_numbered_source_are_not_shuffled(tmp_path):
    plan = Plan(Numbered(), "numbers", tmp_path, Preparation(shard_images=10))
    assert [item.at[0] for part in plan for item in part.items] == list(range(31))

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fm.data.order import BlockOrder, FullOrder, order_of, permutation, words
from fm.errors import DataError, SettingsError, UserError

shards = st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(sum)
windows = st.none() | st.integers(1, 14)
seeds, epochs = st.integers(0, 2**63), st.integers(0, 10**6)
IMAGENET = [1000] * 1281 + [167]


@pytest.mark.parametrize("window", [None, 64])
def test_ten_numbers_are_golden(window):
    """Whatever changes these changes every run that is resumed: raise `order.VERSION` if it must be."""
    positions = [0, 1, 2, 3, 1_281_166, 1_281_167, 1_281_168, 10**6, 10**9, 10**9 + 1]
    assert order_of(IMAGENET, 0, window).at(positions).tolist() == GOLDEN[window]
    assert order_of([20, 20, 10], 1, window and 2).fingerprint() == GOLDEN_FINGERPRINT[window]


@given(shards, windows, seeds, epochs)
def test_each_epoch_has_every_sample_once(sizes, window, seed, epoch):
    order = order_of(sizes, seed, window)
    indices = order.at(epoch * order.length + np.arange(order.length))
    assert sorted(indices) == list(range(order.length))


@given(shards, windows, seeds, st.lists(st.integers(0, 10**5), max_size=20))
def test_a_position_has_one_sample_however_it_is_asked_for(sizes, window, seed, positions):
    order = order_of(sizes, seed, window)
    assert order.at(positions).tolist() == [int(order.at(position)) for position in positions]


@given(shards, st.integers(1, 14), seeds, st.integers(0, 10**4), st.integers(1, 200))
def test_blocks_open_no_more_than_their_window(sizes, window, seed, start, count):
    order, positions = order_of(sizes, seed, window), start + np.arange(count)
    shard_of, seen = np.repeat(np.arange(len(sizes)), sizes), 0
    for piece, allowed in order.windows(positions):
        assert piece.start == seen and len(allowed) <= window
        assert set(shard_of[order.at(positions[piece])]) <= allowed
        seen = piece.stop
    assert seen == count


def test_the_window_of_blocks_moves_by_one_shard():
    order = BlockOrder([40] * 10, seed=0, window=4)
    sets = [shards for _, shards in order.windows(np.arange(order.length))]
    assert len(sets) == 10 and all(len(a & b) == 3 for a, b in zip(sets, [*sets[1:], sets[0]], strict=True))
    assert [shards for _, shards in FullOrder([40] * 10, 0).windows(np.arange(9))] == [None]


@given(st.tuples(*[st.integers(0, 50)] * 4), st.sampled_from([None, 3]))
def test_no_two_seeds_and_epochs_meet(four, window):
    """Not even seed 0, epoch 1 and seed 1, epoch 0."""
    seed, epoch, other_seed, other_epoch = four
    places = np.arange(500)
    one = order_of([100] * 5, seed, window).at(epoch * 500 + places)
    other = order_of([100] * 5, other_seed, window).at(other_epoch * 500 + places)
    assert (one == other).all() == ((seed, epoch) == (other_seed, other_epoch))


def test_the_purpose_is_part_of_the_key():
    assert words(4, 0, "train", "shards").tolist() != words(4, 0, "test", "shards").tolist()
    assert words(4, "a", "bc").tolist() != words(4, "ab", "c").tolist()


@pytest.mark.parametrize("window", [None, 1, 2, 3])
def test_samples_are_uniform_over_places(window):
    """Chi-square of (place, sample) counts over 1,000 epochs of 12: where each place has each sample with chance 1/12,
    its mean is 12 * 11 and its s.d. about 17."""
    order, rounds = order_of([4, 4, 4], 3, window), 1000
    indices = order.at(np.arange(12 * rounds)).reshape(rounds, 12)
    counts = np.stack([np.bincount(indices[:, place], minlength=12) for place in range(12)])
    expected = rounds / 12
    assert abs(((counts - expected) ** 2 / expected).sum() - 12 * 11) < 4 * 17


def test_blocks_mix_what_lies_sorted_in_shards():
    """Classes in a batch of 256 from 1,000 sorted classes: a full permutation has 226, one shard 2."""
    label = np.arange(sum(IMAGENET)) * 1000 // sum(IMAGENET)
    found = {}
    for window in (None, 1, 64, 256):
        order = order_of(IMAGENET, 0, window)
        found[window] = np.mean([len(np.unique(label[order.at(at + np.arange(256))])) for at in range(0, 10**6, 10**5)])
    assert found[1] < 4 and 80 < found[64] < 100 and 175 < found[256] < 195 and 220 < found[None] < 233


def test_fingerprint_tells_orders_apart():
    orders = [([50], 1), ([50], 2), ([25, 25], 1, 1), ([25, 25], 1, 2), ([20, 30], 1, 2)]
    assert len({order_of(*order).fingerprint() for order in orders}) == len(orders)


def test_bad_input_is_one_sentence():
    with pytest.raises(DataError, match="without images"):
        order_of([0], 0)
    with pytest.raises(UserError, match="-1 is negative"):
        order_of([5], 0).at([3, -1])
    with pytest.raises(SettingsError, match="window of 0 shards is empty"):
        order_of([5], 0, 0)
    with pytest.raises(UserError, match=r"10,000,000,000,000 samples needs 160,000.0 GB.*training.window_shards"):
        permutation(10**13, 0)


GOLDEN = {
    None: [1058620, 315835, 988696, 131058, 292272, 62000, 1093470, 1247092, 965032, 280428],
    64: [1074437, 1057394, 798131, 641811, 999695, 884222, 555349, 935377, 101152, 850671],
}
GOLDEN_FINGERPRINT = {None: "full 1956c1b045b1a684", 64: "blocks of 2 12d57a491501ecd2"}

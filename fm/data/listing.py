"""What a source lists: one Item for each picture, and a Listing that holds a million of them in little memory."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from fm.lineage import digest

HEAD_BYTES = 64  # of a key: what sorting compares at once
AT_ONCE = 4096  # items whose columns are objects at a time


@dataclass(frozen=True)
class Item:
    """One picture of a source. Strings from outside are only ever recorded, never used as a path to write to.

    key: unique in the source, the same wherever it lies; label: class name or None; split: the source's own or None;
    meta: facts for the sample's JSON; at: the source's own way to find it; fault: a reason of `fm.data.decode.REASONS`
    to leave it out unread.
    """

    key: str
    label: str | None = None
    split: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    at: tuple[Any, ...] = ()
    fault: str = ""


@dataclass(frozen=True, eq=False)
class Listing(Sequence[Item]):
    """Items in the order of their keys, as columns; an Item is made when it is asked for.

    Beside its key an item takes 20 bytes and 8 for each number of its `at`: 73 in all for one of ImageNet's. A second
    item of one key has the fault `duplicate`. `words[codes[i]]` are label, split and fault of item i (-1: None);
    `odd` holds the items that say more than columns can.
    """

    keys: bytes  # UTF-8, one behind the other
    ends: NDArray[np.int64]  # (n,): where each of them ends
    codes: NDArray[np.int32]  # (n, 3)
    words: tuple[str, ...]
    at: NDArray[np.int64]  # (n, numbers)
    odd: dict[int, Item]

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> "Listing": ...
    def __getitem__(self, index: int | slice) -> "Item | Listing":
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        return next(self._items(index % len(self), index % len(self) + 1))

    def __iter__(self) -> Iterator[Item]:
        for start in range(0, len(self), AT_ONCE):
            yield from self._items(start, min(start + AT_ONCE, len(self)))

    def _items(self, start: int, stop: int) -> Iterator[Item]:
        rows = zip(self.codes[start:stop].tolist(), self.at[start:stop].tolist(), strict=True)
        for index, ((label, split, fault), at) in enumerate(rows, start):
            if index in self.odd:
                yield self.odd[index]
                continue
            key = self.key_at(index).decode()
            yield Item(key, self._word(label), self._word(split), at=tuple(at), fault=self._word(fault) or "")

    def _word(self, code: int) -> str | None:
        return self.words[code] if code >= 0 else None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Listing) or len(self) != len(other):
            return NotImplemented
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    def key_at(self, index: int) -> bytes:
        """The key of an item in UTF-8."""
        return self.keys[self.ends[index - 1] if index else 0 : self.ends[index]]

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> "Listing":
        """The items at these places (0 and above), in the order given, with the words that they use alone."""
        chosen, keys = np.asarray(indices, np.int64), bytearray()
        for index in map(int, chosen):
            keys += self.key_at(index)
        codes, used = self.codes[chosen], np.zeros(len(self.words) + 1, bool)
        used[codes] = True
        numbers = np.append(np.cumsum(used[:-1]) - 1, -1).astype(np.int32)
        words = tuple(word for word, kept in zip(self.words, used[:-1], strict=True) if kept)
        ends = np.cumsum(self.ends[chosen] - np.where(chosen, self.ends[chosen - 1], 0))
        odd = {new: self.odd[old] for new, old in enumerate(map(int, chosen)) if old in self.odd} if self.odd else {}
        return Listing(bytes(keys), ends, numbers[codes], words, self.at[chosen], odd)

    def digest(self) -> str:
        """Identifies all that it says."""
        columns = (self.ends, self.codes, self.at)
        hashes = [hashlib.sha256(data).hexdigest() for data in (self.keys, *(column.tobytes() for column in columns))]
        return digest(hashes, self.words, self.odd)

    def labels(self) -> list[str]:
        """The different labels, sorted."""
        return sorted(self.words[code] for code in np.unique(self.codes[:, 0]).tolist() if code >= 0)

    def faulty(self) -> NDArray[np.int64]:
        """Where the items stand that have a fault."""
        faults = np.array([*map(bool, self.words), False])  # -1 is the last
        return np.flatnonzero(faults[self.codes[:, 2]])

    def by_split(self) -> dict[str | None, NDArray[np.int64]]:
        """Each split that an item names (None: the items that name none), and where those items stand, ascending."""
        found = np.unique(self.codes[:, 1]).tolist()
        return {self.words[c] if c >= 0 else None: np.flatnonzero(self.codes[:, 1] == c) for c in found}


def listed(items: Iterable[Item]) -> Listing:
    """The listing of items in any order, taken one at a time; of one key the first counts."""
    keys, ends, codes, at = bytearray(), array("q"), array("i"), array("q")
    words: dict[str, int] = {}
    odd: dict[int, Item] = {}
    numbers: int | None = None
    for index, item in enumerate(items):
        keys += item.key.encode()
        ends.append(len(keys))
        for word in (item.label, item.split, item.fault):
            codes.append(-1 if word is None else words.setdefault(word, len(words)))
        plain = all(type(number) is int for number in item.at) and not item.meta
        numbers = len(item.at) if numbers is None and plain else numbers
        if plain and len(item.at) == numbers:
            at.extend(item.at)
        else:
            odd[index] = item
    rows, whole = len(ends), np.full(len(ends), True)
    whole[list(odd)] = False
    places = np.zeros((rows, numbers or 0), np.int64)
    places[whole] = np.reshape(at, (rows - len(odd), numbers or 0))
    table = np.reshape(codes, (rows, 3)).astype(np.int32)
    return _sorted(Listing(bytes(keys), np.array(ends, np.int64), table, tuple(words), places, odd))


def _sorted(listing: Listing) -> Listing:
    """In the order of the keys (bytes of UTF-8 sort as the text does), later ones of the same key marked."""
    if all(one < another for one, another in pairwise(map(listing.key_at, range(len(listing))))):
        return listing
    listing = listing.take(_order(listing))
    keys = pairwise(map(listing.key_at, range(len(listing))))
    again = [place for place, (one, another) in enumerate(keys, start=1) if one == another]
    if not again:
        return listing
    listing.codes[again, 0], listing.codes[again, 2] = -1, len(listing.words)
    odd = {i: replace(listing.odd[i], label=None, fault="duplicate") for i in again if i in listing.odd}
    return replace(listing, words=(*listing.words, "duplicate"), odd=listing.odd | odd)


def _order(listing: Listing) -> NDArray[np.int64]:
    """Where the items stand in the order of their keys, the first of equals first: sorted by the keys' first bytes in
    an array, which holds a hundred million of them, then one by one where those are equal."""
    count, width = len(listing), int(np.diff(listing.ends, prepend=0).max(initial=1).clip(1, HEAD_BYTES))
    heads = np.fromiter((listing.key_at(i)[:width] for i in range(count)), f"S{width}", count)
    order = np.argsort(heads, kind="stable")
    heads = heads[order]
    equal = np.concatenate([[0], heads[1:] == heads[:-1], [0]])
    for first, last in np.flatnonzero(np.diff(equal)).reshape(-1, 2).tolist():
        order[first : last + 1] = sorted(order[first : last + 1].tolist(), key=listing.key_at)
    return order

"""What a source lists: one Item for each picture, and a Listing that holds a million of them in little memory."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


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
        index %= len(self)
        if index in self.odd:
            return self.odd[index]
        label, split, fault = (self.words[code] if code >= 0 else None for code in self.codes[index].tolist())
        return Item(self._key(index).decode(), label, split, at=tuple(self.at[index].tolist()), fault=fault or "")

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Listing) or len(self) != len(other):
            return NotImplemented
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    def _key(self, index: int) -> bytes:
        return self.keys[self.ends[index - 1] if index else 0 : self.ends[index]]

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> "Listing":
        """The items at these places (0 and above), in the order given."""
        chosen = np.asarray(indices, np.int64)
        keys = [self._key(i) for i in chosen.tolist()]
        odd = {new: self.odd[old] for new, old in enumerate(chosen.tolist()) if old in self.odd} if self.odd else {}
        ends = np.cumsum([len(key) for key in keys], dtype=np.int64)
        return Listing(b"".join(keys), ends, self.codes[chosen], self.words, self.at[chosen], odd)


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
    keys = [listing._key(i) for i in range(len(listing))]
    if all(one < next_one for one, next_one in pairwise(keys)):
        return listing
    order = sorted(range(len(keys)), key=keys.__getitem__)
    again = [place for place in range(1, len(order)) if keys[order[place]] == keys[order[place - 1]]]
    listing = listing.take(order)
    if not again:
        return listing
    listing.codes[again, 0], listing.codes[again, 2] = -1, len(listing.words)
    odd = {i: replace(item, label=None, fault="duplicate") if i in again else item for i, item in listing.odd.items()}
    return replace(listing, words=(*listing.words, "duplicate"), odd=odd)

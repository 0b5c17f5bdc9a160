import hashlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fm.noise import draws, key, philox, uniforms, words

# Known answers of Philox4x32-10 from the authors' Random123 distribution.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key_words", "expected"), KNOWN)
def test_philox_gives_the_published_words(counter: tuple, key_words: tuple, expected: tuple) -> None:
    out = philox([torch.tensor([c]) for c in counter], key_words)
    assert tuple(int(w) for w in out) == expected


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**40),
    st.lists(st.integers(0, 2**50), min_size=1, max_size=20, unique=True),
    st.randoms(use_true_random=False),
)
def test_a_draw_depends_on_its_position_alone(seed: int, positions: list[int], random) -> None:
    whole = draws(seed, "z", torch.tensor(positions), (3, 2, 2))
    order = list(range(len(positions)))
    random.shuffle(order)
    shuffled = draws(seed, "z", torch.tensor([positions[i] for i in order]), (3, 2, 2))
    assert torch.equal(whole[order], shuffled)
    assert torch.equal(draws(seed, "z", torch.tensor(positions[:1]), (3, 2, 2)), whole[:1])


def test_streams_and_seeds_never_meet() -> None:
    keys = {key(seed, stream) for seed in range(100) for stream in ("t", "z", "u", "flip", "drop")}
    assert len(keys) == 500
    at = torch.arange(50)
    assert not torch.equal(uniforms(0, "t", at, (4,)), uniforms(1, "t", at, (4,)))
    assert not torch.equal(uniforms(0, "t", at, (4,)), uniforms(0, "z", at, (4,)))


def test_normals_are_normal() -> None:
    x = draws(0, "z", torch.arange(4000), (63,)).double()
    n = x.numel()
    assert abs(x.mean()) < 4 / math.sqrt(n)
    assert abs(x.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs((x**4).mean() - 3) < 4 * math.sqrt(96 / n)
    for q in (-2.0, -1.0, 0.0, 1.0, 2.0):
        p = 0.5 * (1 + math.erf(q / math.sqrt(2)))
        assert abs((x < q).double().mean() - p) < 4 * math.sqrt(p * (1 - p) / n)
    assert abs((x[:, :-1] * x[:, 1:]).mean()) < 4 / math.sqrt(n)


def test_uniforms_are_uniform_and_open() -> None:
    u = uniforms(0, "t", torch.arange(200_000), ()).double()
    assert u.min() > 0 and u.max() < 1
    counts = torch.histc(u, bins=64, min=0, max=1)
    expected = len(u) / 64
    assert ((counts - expected) ** 2 / expected).sum() < 120  # chi-square, 63 degrees of freedom: p > 1e-5


def test_golden_words() -> None:
    raw = words(7, "z", torch.tensor([0, 1, 2**33 + 5]), 6).numpy().astype("<i8").tobytes()
    assert hashlib.sha256(raw).hexdigest()[:16] == "d59f41c2eaf26aa4"

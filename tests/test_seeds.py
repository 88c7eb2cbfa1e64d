"""Seeds and noise: stable, distinct, and without pattern."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sod.seeds import derive, uniforms

NAMES = st.lists(st.text(max_size=4) | st.integers(-3, 3), max_size=4)
U64 = np.uint64


def test_derived_seeds_are_pinned() -> None:
    """A change of this number would change every run there ever was, and break its resumption."""
    assert derive(0, "noise", "train", 1, "chain-0", 0, 0) == 74807071427719369


def test_uniforms_are_splitmix64() -> None:
    """The published outputs for seed 1234567 (Rosetta Code, "Pseudo-random numbers/Splitmix64"), top 53 bits."""
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    got = uniforms(np.full(5, 1234567, dtype=U64), np.arange(5, dtype=U64))
    assert got.tolist() == [(z >> 11) / 2**53 for z in published]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2), NAMES, st.integers(0, 2), NAMES)
def test_different_names_give_different_seeds(a: int, names: list[str | int], b: int, others: list[str | int]) -> None:
    """In order, and by type: 1 is not "1". All fit 63 bits."""
    assert (derive(a, *names) == derive(b, *others)) == ((a, names) == (b, others))
    assert 0 <= derive(a, *names) < 2**63


def test_neighbouring_steps_do_not_collide_with_neighbouring_seeds() -> None:
    """`seed + step` would give 19 distinct numbers here instead of 100."""
    assert len({derive(seed, "step", step) for seed in range(10) for step in range(10)}) == 100


def test_a_separator_inside_a_name_does_not_collide() -> None:
    """Task ids are the user's: one that holds the separator must not share noise with another task."""
    assert derive(0, "a\x1fstr:b") != derive(0, "a", "b")
    assert derive(0, "a\x1fint:1", 0) != derive(0, "a", 1, 0)


def test_uniforms_are_uniform_and_uncorrelated() -> None:
    """Moments and a 64-bin chi-square over 100,000 numbers; lag-1 correlation along positions and along keys."""
    grid = uniforms(np.repeat(np.arange(1000, dtype=U64), 100), np.tile(np.arange(100, dtype=U64), 1000))
    assert 0.0 <= grid.min() < 1e-3
    assert 1 - 1e-3 < grid.max() < 1.0
    counts = np.histogram(grid, bins=64, range=(0, 1))[0]
    expected = len(grid) / 64
    assert ((counts - expected) ** 2 / expected).sum() < 63 + 5 * np.sqrt(2 * 63)
    table = grid.reshape(1000, 100)
    for x, y in ((table[:, :-1], table[:, 1:]), (table[:-1], table[1:])):
        assert abs(np.corrcoef(x.ravel(), y.ravel())[0, 1]) < 0.02


def test_uniforms_do_not_depend_on_their_neighbours() -> None:
    """One at a time or all together, in any order; keys and positions up to 64 bits."""
    rng = np.random.default_rng(0)
    key, position = (rng.integers(0, 2**64, size=50, dtype=U64) for _ in range(2))
    together = uniforms(key, position)
    alone = [uniforms(key[i : i + 1], position[i : i + 1])[0] for i in range(50)]
    assert together.tolist() == alone
    assert len(set(alone)) == 50

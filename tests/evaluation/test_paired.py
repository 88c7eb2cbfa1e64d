"""Differences between two evaluations: p by enumeration of all signs, intervals by how often they cover the truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from sod.evaluation import paired
from sod.evaluation.paired import difference, sign_flip


def by_all_signs(gaps: list[float]) -> float:
    """The share of signs whose sum is as far from zero as the observed one."""
    sums = [sum(sign * gap for sign, gap in zip(signs, gaps, strict=True)) for signs in _signs(len(gaps))]
    return sum(abs(one) >= abs(sum(gaps)) - 1e-9 for one in sums) / len(sums)


def _signs(count: int) -> list[tuple[int, ...]]:
    return list(itertools.product((-1, 1), repeat=count))


GAPS = {
    "quarters": [0.25, 0.5, -0.25, 0.0, 1.0, 0.75, -0.5, 0.25],
    "thirds and halves": [1 / 3, 0.5, -1 / 3, 1.0, -0.5, 2 / 3],
    "ragged": [1 / 3, 2 / 7, -0.2, 0.0, 4 / 5],
    "one": [0.5],
    "none": [0.0, 0.0, 0.0],
    "even": [0.5, -0.5],
}


@pytest.mark.parametrize("name", GAPS)
def test_p_is_the_share_of_signs_with_a_sum_as_far_from_zero(name: str) -> None:
    p, exact = sign_flip(GAPS[name])
    assert exact
    assert p == pytest.approx(by_all_signs(GAPS[name]))


@pytest.mark.parametrize(("won", "lost", "same"), [(8, 1, 20), (3, 3, 0), (0, 5, 2), (40, 20, 400)])
def test_of_one_sample_a_problem_it_is_mcnemars_exact_test(won: int, lost: int, same: int) -> None:
    """Twice the binomial tail of the problems that flipped."""
    flipped = won + lost
    tail = sum(math.comb(flipped, n) for n in range(max(won, lost), flipped + 1)) / 2**flipped
    p, exact = sign_flip([1.0] * won + [-1.0] * lost + [0.0] * same)
    assert exact
    assert p == pytest.approx(min(1.0, 2 * tail))


def test_where_counting_takes_too_long_signs_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Always the same ones, close to the count, and never zero."""
    gaps = [0.25, 0.5, -0.25, 1.0, 0.75, -0.5, 0.25, 0.25, 0.5]
    counted, _ = sign_flip(gaps)
    monkeypatch.setattr(paired, "MOST_SUMS", 0)
    drawn, exact = sign_flip(gaps)
    assert not exact
    assert drawn == pytest.approx(counted, abs=0.01)
    assert sign_flip(gaps)[0] == drawn
    assert sign_flip([1.0] * 60)[0] > 0.0


def test_the_difference_is_the_second_less_the_first() -> None:
    found = difference([0.0, 0.5, 1.0, 0.25], [1.0, 0.5, 1.0, 0.75])
    assert (found.first, found.second, found.value) == (0.4375, 0.8125, 0.375)
    assert found.low < 0.375 < found.high
    other = difference([1.0, 0.5, 1.0, 0.75], [0.0, 0.5, 1.0, 0.25])
    assert (other.low, other.high, other.p) == pytest.approx((-found.high, -found.low, found.p))
    for bad in (([], []), ([0.5], [0.5, 0.5])):
        with pytest.raises(ValueError, match="problems beside"):
            difference(*bad)


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "problems"), [(0.0, 12), (0.3, 40)])
def test_the_interval_covers_and_p_is_small_as_often_as_it_says(shift: float, problems: int) -> None:
    """Four samples a problem; the second is right more often by `shift` on problems where there is room."""
    rng = np.random.default_rng(3)
    covered, small, trials = 0, 0, 150
    for _ in range(trials):
        chance = rng.choice([0.1, 0.4, 0.6], size=problems)
        first = rng.binomial(4, chance) / 4
        second = rng.binomial(4, chance + shift) / 4
        found = difference(first.tolist(), second.tolist())
        covered += found.low <= shift <= found.high
        small += found.p <= 0.05
    assert covered / trials >= 0.93
    assert (small / trials <= 0.08) if shift == 0.0 else (small / trials >= 0.8)

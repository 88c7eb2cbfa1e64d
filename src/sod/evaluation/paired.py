"""Two evaluations of the same problems: the difference, an interval around it, and a test that there is none.

The problems are what is paired. Under the hypothesis of no difference each problem's could as well have the other sign:
the test counts, of all ways to give them signs, those with a sum as far from zero. It is exact; where every problem has
one sample, so that differences are -1, 0 and 1, it is McNemar's exact test. The interval is Gaffke's of the differences
moved into [0, 1] (`sod.evaluation.intervals`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import final

import numpy as np
from numpy.typing import NDArray

from sod.evaluation.intervals import mean_interval

LARGEST_DENOMINATOR = 1_000_000
MOST_SUMS = 50_000_000
"""Numbers of steps that the exact count may take (differences times the sums they reach)."""
DRAWS = 20_000
"""Signs that are drawn instead where it would take more; their seed is fixed."""


@final
@dataclass(frozen=True)
class Difference:
    """`second - first` of a figure, over problems, its 95% interval, and the two-sided p-value of no difference.

    `exact` is whether p was counted, not estimated from drawn signs.
    """

    first: float
    second: float
    value: float
    low: float
    high: float
    p: float
    exact: bool


def difference(first_P: Sequence[float], second_P: Sequence[float]) -> Difference:
    """The difference of a figure between two evaluations, of which each problem has a value in [0, 1] in both.

    Raises ValueError for no problems, and for rows of other lengths.
    """
    if len(first_P) != len(second_P) or not first_P:
        raise ValueError(f"{len(first_P)} problems beside {len(second_P)}")
    gaps = [second - first for first, second in zip(first_P, second_P, strict=True)]
    low, high = mean_interval([min(1.0, max(0.0, 0.5 * (gap + 1.0))) for gap in gaps])
    p, exact = sign_flip(gaps)
    return Difference(
        first=float(np.mean(first_P)),
        second=float(np.mean(second_P)),
        value=float(np.mean(gaps)),
        low=2.0 * low - 1.0,
        high=2.0 * high - 1.0,
        p=p,
        exact=exact,
    )


def sign_flip(gaps: Sequence[float]) -> tuple[float, bool]:
    """The two-sided p-value of the sign-flip test, and whether it was counted: else signs were drawn."""
    whole = _as_integers([abs(gap) for gap in gaps if gap])
    observed = sum(gaps)
    if whole is None:
        return _drawn(np.abs(np.asarray(gaps, dtype=np.float64)), abs(observed)), False
    unit, sizes = whole
    reached = sum(sizes)
    if len(sizes) * (2 * reached + 1) > MOST_SUMS:
        return _drawn(np.asarray(sizes, dtype=np.float64), abs(observed) / unit), False
    chance = np.zeros(2 * reached + 1)  # of every sum of the signed sizes, from -reached to reached
    chance[reached] = 1.0
    for size in sizes:
        moved = np.zeros_like(chance)
        moved[size:] += 0.5 * chance[: len(chance) - size]
        moved[: len(chance) - size] += 0.5 * chance[size:]
        chance = moved
    far = np.abs(np.arange(-reached, reached + 1)) >= round(abs(observed) / unit)
    return min(1.0, float(chance[far].sum())), True


def _as_integers(values: Sequence[float]) -> tuple[float, list[int]] | None:
    """The unit that all values are multiples of, and how many of it they are; None where that is too fine."""
    fractions = [Fraction(value).limit_denominator(10_000) for value in values]
    common = math.lcm(*(fraction.denominator for fraction in fractions)) if fractions else 1
    if common > LARGEST_DENOMINATOR:
        return None
    sizes = [int(fraction * common) for fraction in fractions]
    shared = math.gcd(*sizes) or 1
    return shared / common, [size // shared for size in sizes]


def _drawn(sizes_P: NDArray[np.float64], observed: float) -> float:
    """The p-value by drawn signs; the observed ones count as a draw, so that it is never 0."""
    rng = np.random.default_rng(0)
    far, together = 1, 100
    for _ in range(DRAWS // together):
        signs_DP = rng.integers(0, 2, size=(together, len(sizes_P))) * 2 - 1
        far += int((np.abs(signs_DP @ sizes_P) >= observed - 1e-9 * max(1.0, observed)).sum())
    return far / (DRAWS + 1)

"""Means over seeds and their intervals. The seed is the unit: episodes and tasks of a seed are not independent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any, final


@final
@dataclass(frozen=True)
class Spread:
    """A mean over `n` seeds, its 95% t-interval (None with a single seed) and the extremes."""

    mean: float
    ci95: tuple[float, float] | None
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def spread(values: Sequence[float]) -> Spread:
    """Mean, `mean -+ t(0.975, n - 1) * s / sqrt(n)`, minimum and maximum. Raises ValueError without a value."""
    if not values:
        raise ValueError("no values")
    mean, count = fmean(values), len(values)
    interval = None
    if count > 1:
        half = t_quantile(0.975, count - 1) * stdev(values) / math.sqrt(count)
        interval = (mean - half, mean + half)
    return Spread(mean, interval, min(values), max(values), count)


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t, by bisection, to about 1e-12. Raises ValueError outside (0, 1) and for freedom < 1."""
    if not 0.0 < probability < 1.0 or freedom < 1:
        raise ValueError(f"no quantile of t at {probability} with {freedom} degrees of freedom")
    if probability < 0.5:
        return -t_quantile(1.0 - probability, freedom)
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < probability:
        low, high = high, 2.0 * high
    while high - low > 1e-13 * high:
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if t_cdf(middle, freedom) < probability else (low, middle)
    return 0.5 * (low + high)


def t_cdf(t: float, freedom: int) -> float:
    """Distribution function of Student's t with a whole number of degrees of freedom.

    Closed form: Abramowitz & Stegun 26.7.3 (odd) and 26.7.4 (even), with `theta = atan(t / sqrt(freedom))`.
    """
    theta = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(theta) if odd else 1.0
    total = 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= (k - 1) / k * math.cos(theta) ** 2
    within = 2.0 / math.pi * (theta + math.sin(theta) * total) if odd else math.sin(theta) * total
    return 0.5 + 0.5 * within

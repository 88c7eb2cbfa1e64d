"""An interval for the mean of values between 0 and 1, of which there may be few, and most of them 0 or 1.

Resampling the problems themselves (the percentile bootstrap) says `[0, 0]` where every sample was wrong, and covers a
mean near 0 or 1 far less often than it claims. Gaffke's interval ("Three test statistics for a nonparametric one-sided
hypothesis on the mean of a nonnegative variable", 2005; Learned-Miller and Thomas, arXiv 1905.06208) weighs the
problems at random instead, with weights spread evenly over all that add up to 1, and adds one problem more: a wholly
right one for the upper end, a wholly wrong one for the lower. Of values that are all 0 or 1 it is Clopper and Pearson's
exact interval. For others its coverage is a conjecture that no simulation has broken, ours in `tests/evaluation`
included.

Legend: V distinct values, U nodes of the integral.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_STEP = 0.05  # between nodes, in log u
_NODES_U: Floats = np.exp(np.arange(-18.0, 12.0, _STEP))
_HALVINGS = 40  # of the range between the extremes: to 1e-12


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Both ends of the interval in which the mean of the population lies, of which `values` are independent draws.

    Half of `1 - level` is left on each side. Raises ValueError for no values, for one outside [0, 1] and for a level
    outside (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    given = np.asarray(values, dtype=np.float64)
    if not len(given):
        raise ValueError("no values")
    if not ((given >= 0.0) & (given <= 1.0)).all():
        raise ValueError(f"values must lie between 0 and 1, got {given.tolist()}")
    beyond = (1.0 - level) / 2.0
    return 1.0 - _upper_end(1.0 - given, beyond), _upper_end(given, beyond)


def _upper_end(values: Floats, beyond: float) -> float:
    """The point that the weighted mean, a value of 1 added, exceeds with probability `beyond`."""
    value_V, count_V = np.unique(np.append(values, 1.0), return_counts=True)
    low, high = float(value_V[0]), float(value_V[-1])
    if low == high:
        return high
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if _exceeds(value_V, count_V.astype(np.float64), middle) > beyond:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _exceeds(value_V: Floats, count_V: Floats, point: float) -> float:
    """The probability that the mean of the values, weighted evenly at random, exceeds `point`.

    The weights are gamma variables over their sum, so it is that of `sum_v (value_v - point) G_v > 0` with independent
    `G_v ~ Gamma(count_v, 1)`: Gil-Pelaez' inversion of the characteristic function (Biometrika 38, 1951), as Imhof
    wrote it for chi-squares (Biometrika 48, 1961). In log u its integrand falls off on both sides, where the plain sum
    over even steps converges faster than any power of the step.
    """
    distance_V = value_V - point
    spread = float(np.sqrt((count_V * distance_V**2).sum()))
    scaled_UV = _NODES_U[:, None] * (distance_V / spread)
    angle_U = np.arctan(scaled_UV) @ count_V
    log_size_U = 0.5 * np.log1p(scaled_UV**2) @ count_V
    return float(0.5 + (np.sin(angle_U) * np.exp(-log_size_U)).sum() * _STEP / np.pi)

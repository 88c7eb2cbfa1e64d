"""avg@k, pass@k, maj@k, each with an interval over problems. Numpy only.

Shapes: P problems; N samples of one problem. Rows may be ragged, because a faulted episode shrinks
its problem's row. A problem that lost every sample says nothing and is left out of every mean.
The `*_per_problem` functions return one value per problem with at least one sample, in order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, final

import numpy as np
from numpy.typing import NDArray

from sod.evaluation.intervals import mean_interval

T = TypeVar("T")

Correct = Sequence[Sequence[float]]  # [P][N], 1 or True for a right answer
Answers = Sequence[Sequence[str | None]]  # [P][N], None where the sample gave no answer


@final
@dataclass(frozen=True)
class Estimate:
    """A mean over problems and the interval [low, high] around it, all in the metric's own unit."""

    value: float
    low: float
    high: float


def avg_per_problem(correct_PN: Correct, k: int | None = None) -> list[float]:
    """Mean correctness of each problem's first k samples (all of them by default).

    A row shorter than k counts with what it has. Raises ValueError as `avg_at_k`.
    """
    _check_k(k)
    return _not_empty([float(np.mean(_floats(row)[:k])) for row in correct_PN if len(row)])


def avg_at_k(correct_PN: Correct, k: int | None = None) -> float:
    """avg@k = 1/P sum_p 1/N_p sum_n correct[p][n]: the mean of the row means.

    Values may be any finite score. Empty rows are left out.
    Raises ValueError without a single sample, for k < 1 and for a score that is not finite.
    """
    return float(np.mean(avg_per_problem(correct_PN, k)))


def pass_per_problem(correct_PN: Correct, k: int | None = None) -> list[float]:
    """Each problem's pass@k; see `pass_at_k`."""
    _check_k(k)
    sizes = _not_empty([len(row) for row in correct_PN if len(row)])
    draw = min(sizes) if k is None else k
    values = []
    for index, row in enumerate(correct_PN):
        if not len(row):
            continue
        if len(row) < draw:
            raise ValueError(f"row {index} has {len(row)} samples: too few for pass@{draw}")
        values.append(_pass_of_row(_floats(row), draw, index))
    return values


def pass_at_k(correct_PN: Correct, k: int | None = None) -> float:
    """pass@k = 1/P sum_p 1 - C(n-c, k) / C(n, k): the unbiased estimator.

    The chance that k of a problem's n samples, c of them correct, drawn without replacement, hold a
    correct one (Chen et al. 2021, arXiv 2107.03374, eq. 1). `k` defaults to the smallest n. Empty
    rows are left out.
    Raises ValueError without a single sample, for k < 1, for a row with fewer than k samples (named)
    and for a value other than 0 and 1 (partial credit has no pass@k).
    """
    return float(np.mean(pass_per_problem(correct_PN, k)))


def maj_per_problem(answers_PN: Answers, correct_PN: Correct, k: int | None = None) -> list[float]:
    """Correctness of each problem's majority answer; see `maj_at_k`."""
    _check_k(k)
    if len(answers_PN) != len(correct_PN):
        raise ValueError(f"{len(answers_PN)} rows of answers but {len(correct_PN)} rows of correctness")
    values = []
    for index, (answers, correct) in enumerate(zip(answers_PN, correct_PN, strict=True)):
        if len(answers) != len(correct):
            raise ValueError(f"row {index} has {len(answers)} answers but {len(correct)} correctness values")
        if len(answers):
            values.append(_maj_of_row(answers[:k], _floats(correct)[:k]))
    return _not_empty(values)


def maj_at_k(answers_PN: Answers, correct_PN: Correct, k: int | None = None) -> float:
    """maj@k: correctness of the most frequent answer among the first k samples, mean over problems.

    Self-consistency (Wang et al. 2022, arXiv 2203.11171). Answers are compared as they stand: equal ones
    must have one spelling (`Verifier.votes`). None (no answer) never wins against an answer. A tie counts
    as the mean over the tied answers, which is what breaking it at random gives in expectation, so the
    order of the samples does not matter. A row shorter than k votes with what it has; empty rows are left
    out.
    Raises ValueError without a single sample, for k < 1 and for rows that do not match.
    """
    return float(np.mean(maj_per_problem(answers_PN, correct_PN, k)))


def powers_up_to(k: int) -> list[int]:
    """1, 2, 4, ... up to `k`, and `k` itself."""
    _check_k(k)
    powers = [1 << exponent for exponent in range(k.bit_length())]
    return powers if powers[-1] == k else [*powers, k]


def pass_curve(correct_PN: Correct, k: int) -> dict[int, Estimate]:
    """pass@1, pass@2, pass@4, ... up to pass@k with their 95 % intervals, each over the problems with so many samples.

    One that no problem has the samples for is left out. Raises ValueError as `pass_at_k`.
    """
    curve = {}
    for draw in powers_up_to(k):
        long_rows = [row for row in correct_PN if len(row) >= draw]
        if long_rows:
            curve[draw] = _estimate(pass_per_problem(long_rows, draw))
    return curve


def summarise(answers_PN: Answers, correct_PN: Correct, k: int) -> dict[str, Estimate]:
    """avg@k, pass@k and maj@k with their 95 % intervals, under `avg_at_k`, `pass_at_k`, `maj_at_k`.

    The problems are what the intervals are over (`mean_interval`): samples of one problem are not independent.

    pass@k is the mean over the problems that kept at least k samples: one lost episode must not cost
    the whole evaluation, and a smaller k would quietly measure something else.
    Raises ValueError as the three metrics do, and where no problem kept k samples.
    """
    long_rows = [row for row in correct_PN if len(row) >= k]
    if not long_rows:
        raise ValueError(f"no problem has the {k} samples that pass@{k} needs")
    values = {
        "avg_at_k": avg_per_problem(correct_PN, k),
        "pass_at_k": pass_per_problem(long_rows, k),
        "maj_at_k": maj_per_problem(answers_PN, correct_PN, k),
    }
    return {name: _estimate(row) for name, row in values.items()}


def _estimate(values: Sequence[float]) -> Estimate:
    return Estimate(float(np.mean(values)), *mean_interval(values))


def _pass_of_row(correct_N: NDArray[np.float64], k: int, index: int) -> float:
    if not np.isin(correct_N, (0.0, 1.0)).all():
        raise ValueError(f"row {index} holds values other than 0 and 1: pass@k needs right or wrong")
    n, c = len(correct_N), int(correct_N.sum())
    if n - c < k:
        return 1.0
    # C(n-c, k) / C(n, k) as a product of factors below one: the binomials themselves overflow.
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def _maj_of_row(answers: Sequence[str | None], correct_N: NDArray[np.float64]) -> float:
    votes: dict[str | None, list[float]] = defaultdict(list)
    for answer, correct in zip(answers, correct_N, strict=True):
        votes[answer].append(float(correct))
    if len(votes) > 1:
        votes.pop(None, None)
    most = max(len(scores) for scores in votes.values())
    return float(np.mean([np.mean(scores) for scores in votes.values() if len(scores) == most]))


def _floats(row: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(row, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"scores must be finite, got {values.tolist()}")
    return values


def _not_empty(values: list[T]) -> list[T]:
    if not values:
        raise ValueError("no samples: every problem's row is empty")
    return values


def _check_k(k: int | None) -> None:
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, got {k}")

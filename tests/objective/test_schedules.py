"""Schedules: ends, midpoints, that they never turn back, and what is no schedule."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sod.objective import PRESETS, Schedule, constant, linear

ENDS = st.floats(-1e6, 1e6)


def test_constant() -> None:
    assert [constant(0.7)(step) for step in (1, 50, 10_000)] == [0.7] * 3
    assert Schedule("constant", 0.7, 99.0, 5)(5) == 0.7


def test_ends_midpoints_and_beyond() -> None:
    """The start at step 1, the end after so many steps and from then on; quarters by hand."""
    for kind, quarter in (("linear", 0.25), ("cosine", 0.5 - 0.5 * math.sqrt(0.5))):
        schedule = Schedule(kind, 2.0, 6.0, 8)  # type: ignore[arg-type]
        assert schedule(1) == 2.0
        assert schedule(3) == pytest.approx(2.0 + 4.0 * quarter)
        assert schedule(5) == pytest.approx(4.0)
        assert schedule(7) == pytest.approx(6.0 - 4.0 * quarter)
        assert schedule(9) == schedule(10) == schedule(1000) == 6.0


def test_atod_over_80_steps() -> None:
    """kappa from 1 to 0.1, rho from 1 to 2 (arXiv 2606.27814)."""
    method = PRESETS["atod"]()
    for step, kappa, rho in ((1, 1.0, 1.0), (21, 0.775, 1.25), (41, 0.55, 1.5), (81, 0.1, 2.0), (500, 0.1, 2.0)):
        assert method.kappa(step) == pytest.approx(kappa)
        assert method.rho(step) == pytest.approx(rho)


@given(
    kind=st.sampled_from(["linear", "cosine"]),
    start=ENDS,
    end=ENDS,
    steps=st.integers(1, 300),
    step=st.integers(1, 400),
)
def test_between_its_ends_and_never_back(kind: Any, start: float, end: float, steps: int, step: int) -> None:
    schedule = Schedule(kind, start, end, steps)
    now, then = schedule(step), schedule(step + 1)
    slack = 1e-9 * max(1.0, abs(start), abs(end))
    assert min(start, end) - slack <= now <= max(start, end) + slack
    assert (then - now) * (end - start) >= 0
    assert schedule(steps + 1) == pytest.approx(end, rel=1e-9, abs=slack)


@given(start=ENDS, steps=st.integers(1, 300), step=st.integers(1, 400))
def test_equal_ends_are_a_constant(start: float, steps: int, step: int) -> None:
    assert linear(start, start, steps)(step) == start


def test_never() -> None:
    """Zero at every step, not just at first."""
    assert constant(0.0).never
    assert linear(0.0, 0.0, 5).never
    assert Schedule("constant", 0.0, 1.0, 5).never
    for schedule in (constant(0.1), linear(0.0, 1.0, 5), linear(1.0, 0.0, 5)):
        assert not schedule.never


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("exponential", 1.0, 0.0, 5), "schedule 'exponential' does not exist"),
        (("linear", 1.0, 0.0, 0), "at least one step, got 0"),
        (("linear", math.nan, 0.0, 5), "finite values"),
        (("cosine", 0.0, math.inf, 5), "finite values"),
        (("constant", -math.inf, -math.inf, 1), "finite values"),
    ],
)
def test_what_is_no_schedule(arguments: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Schedule(*arguments)

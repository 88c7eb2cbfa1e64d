"""Outcomes come back in their places, whatever part of a batch is run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sod.outcomes import filled, retried


@given(st.lists(st.booleans(), max_size=12))
def test_filled_runs_the_gaps_alone_and_keeps_the_order(known: list[bool]) -> None:
    calls: list[list[int]] = []

    def run(items: list[int]) -> list[str]:
        calls.append(items)
        return [f"ran {item}" for item in items]

    outcomes = filled(["known" if there else None for there in known], range(len(known)), run)
    assert outcomes == ["known" if there else f"ran {at}" for at, there in enumerate(known)]
    gaps = [at for at, there in enumerate(known) if not there]
    assert calls == ([gaps] if gaps else [])


@pytest.mark.parametrize(("known", "returned"), [([None], ["a", "b"]), ([None, 1, None], ["a"]), ([1], [])])
def test_filled_refuses_other_numbers(known: list[object], returned: list[object]) -> None:
    items = list(range(len(known) + (returned == [])))
    with pytest.raises(ValueError):
        filled(known, items, lambda _: returned)


@pytest.mark.parametrize("returned", [[], [1], [1, 2, 3]])
def test_retried_refuses_other_numbers(returned: list[int]) -> None:
    with pytest.raises(ValueError, match=f"{len(returned)} outcomes for 2 items"):
        retried(["a", "b"], lambda _: returned, lambda _: False, 1)


@given(fails=st.lists(st.integers(0, 4), max_size=8), retries=st.integers(0, 3))
def test_retried_tries_each_item_as_often_as_it_fails(fails: list[int], retries: int) -> None:
    """Item n fails `fails[n]` times before it succeeds."""
    tries = [0] * len(fails)

    def run(items: list[int]) -> list[bool]:
        for item in items:
            tries[item] += 1
        return [tries[item] > fails[item] for item in items]

    outcomes, second_runs = retried(range(len(fails)), run, lambda succeeded: not succeeded, retries)
    assert tries == [1 + min(count, retries) for count in fails]
    assert outcomes == [count <= retries for count in fails]
    assert second_runs == sum(tries) - len(tries)

"""Run part of a batch and put the outcomes back in their places: calls not refused, episodes not cut off, retries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def filled(
    known: Sequence[Outcome | None], items: Sequence[Item], run: Callable[[list[Item]], Sequence[Outcome]]
) -> list[Outcome]:
    """`known` with every gap (None) filled by `run`, which gets the items at the gaps, in order, all at once.

    `run` is not called where there is no gap. Raises ValueError where `known` and `items`, or the gaps and what `run`
    returns, differ in number.
    """
    if len(known) != len(items):
        raise ValueError(f"{len(known)} outcomes for {len(items)} items")
    gaps = [at for at, outcome in enumerate(known) if outcome is None]
    found = list(run([items[at] for at in gaps])) if gaps else []
    whole = list(known)
    for at, outcome in zip(gaps, found, strict=True):
        whole[at] = outcome
    return cast(list[Outcome], whole)


def retried(
    items: Sequence[Item],
    run: Callable[[list[Item]], Sequence[Outcome]],
    again: Callable[[Outcome], bool],
    retries: int,
) -> tuple[list[Outcome], int]:
    """The outcome of every item, in order, and how many items were run again, each time counted.

    Items for whose outcome `again` is true are run once more, together, up to `retries` times. Raises ValueError where
    `run` returns another number of outcomes than it got items.
    """
    outcomes = list(run(list(items))) if items else []
    if len(outcomes) != len(items):
        raise ValueError(f"{len(outcomes)} outcomes for {len(items)} items")
    second_runs = 0
    for _ in range(retries):
        waiting = [at for at, outcome in enumerate(outcomes) if again(outcome)]
        if not waiting:
            break
        second_runs += len(waiting)
        for at, outcome in zip(waiting, run([items[at] for at in waiting]), strict=True):
            outcomes[at] = outcome
    return outcomes, second_runs

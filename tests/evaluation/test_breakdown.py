"""Figures by what tasks have in common."""

from __future__ import annotations

from typing import Any

import pytest

from sod.evaluation.breakdown import breakdown_figures, breakdown_rows, broken_down, keys_to_break_down_by
from sod.evaluation.metrics import summarise
from sod.records import Message, SodError, Task

LEVELS = ("Level 10", "Level 2", "Level 2", None)


def task(number: int, source: str = "math", **extra: Any) -> Task:
    return Task(f"t{number}", (Message("user", "?"),), "1", source, {k: v for k, v in extra.items() if v is not None})


TASKS = [task(n, level=level, deep={"kind": "even" if n % 2 == 0 else "odd"}) for n, level in enumerate(LEVELS)]
CORRECT = [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0]]
ANSWERS = [["1", "2"], ["3", "3"], ["1", "1"], [None]]


def test_each_value_has_the_figures_of_its_tasks() -> None:
    """In the order of the numbers in them; where no task kept k samples there is nothing to say."""
    by = broken_down(TASKS, ANSWERS, CORRECT, 2, ["level", "deep.kind"])
    assert list(by["level"]) == ["Level 2", "Level 10"]
    easy = by["level"]["Level 2"]
    assert (easy.tasks, easy.estimates) == (2, summarise(ANSWERS[1:3], CORRECT[1:3], 2))
    assert (by["deep.kind"]["even"].tasks, by["deep.kind"]["even"].estimates["avg_at_k"].value) == (2, 0.75)
    assert breakdown_figures(by)["by/level/Level 2/avg_at_k"] == 0.5
    row = breakdown_rows(by)["level"]["Level 10"]
    assert (row["tasks"], row["pass_at_k"], row["maj_at_k"]) == (1, 1.0, 0.5)
    assert row["intervals"]["avg_at_k"] == list(_ends(by["level"]["Level 10"]))


def _ends(part: Any) -> tuple[float, float]:
    return part.estimates["avg_at_k"].low, part.estimates["avg_at_k"].high


def test_unasked_it_is_what_the_tasks_differ_in() -> None:
    assert keys_to_break_down_by(TASKS, []) == ("level",)
    assert keys_to_break_down_by([*TASKS, task(9, "aime")], []) == ("level", "data_source")
    assert keys_to_break_down_by([task(1, level=3), task(2, level=3)], []) == ()
    assert keys_to_break_down_by(TASKS, ["deep.kind", "deep.kind"]) == ("deep.kind",)


def test_a_key_that_tasks_do_not_share_is_refused() -> None:
    """One that none has names those there are."""
    with pytest.raises(SodError, match="--by size: no task has that; they have data_source, level"):
        keys_to_break_down_by(TASKS, ["size"])
    many = [task(n, line=n) for n in range(60)]
    with pytest.raises(SodError, match="--by line: 60 tasks have 60 values of it"):
        keys_to_break_down_by(many, ["line"])

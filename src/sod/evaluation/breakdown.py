"""Figures of the tasks that have something in common: a difficulty, a level, a source.

A key is one of `Task.extra`, dotted for what lies deeper, or `data_source`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from sod.evaluation.metrics import Answers, Correct, Estimate, summarise
from sod.records import SodError, Task

SOURCE = "data_source"
DEFAULT_KEYS = ("difficulty", "level", SOURCE)
"""What figures are broken down by unasked, where tasks differ in it."""
MOST_VALUES = 50
NONE = "none"
"""What tasks are counted under that lack the key."""


@final
@dataclass(frozen=True)
class Part:
    """The figures of `tasks` tasks; `estimates` as of an evaluation."""

    tasks: int
    estimates: Mapping[str, Estimate]


Breakdown = Mapping[str, Mapping[str, Part]]
"""By key and by the value that tasks have of it."""


def keys_to_break_down_by(tasks: Sequence[Task], asked: Sequence[str]) -> tuple[str, ...]:
    """The keys that were asked for, or else those of `DEFAULT_KEYS` in which the tasks differ.

    Raises SodError for a key that no task has, and for one that has hardly any two tasks in common.
    """
    for key in asked:
        _refuse_unfit(key, tasks)
    if asked:
        return tuple(dict.fromkeys(asked))
    return tuple(key for key in DEFAULT_KEYS if 1 < len({value_of(task, key) for task in tasks}) <= MOST_VALUES)


def value_of(task: Task, key: str) -> str:
    """What a task has of a key, as text."""
    if key == SOURCE:
        return task.data_source
    found: Any = task.extra.get(key)
    if found is None:
        found = task.extra
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    return str(found) if _is_plain(found) else NONE


def broken_down(
    tasks: Sequence[Task], answers_PN: Answers, correct_PN: Correct, k: int, keys: Sequence[str]
) -> dict[str, dict[str, Part]]:
    """The figures by each key and value, easy values first where they are numbers; rows are those of the tasks.

    Values of which no task kept `k` samples are left out.
    """
    return {key: _by_values(tasks, answers_PN, correct_PN, k, key) for key in keys}


def breakdown_rows(by: Breakdown) -> dict[str, dict[str, dict[str, Any]]]:
    """JSON-able."""
    return {key: {value: _row(part) for value, part in parts.items()} for key, parts in by.items()}


def breakdown_figures(by: Breakdown) -> dict[str, float]:
    """The estimates as `by/KEY/VALUE/NAME`, for trackers."""
    figures: dict[str, float] = {}
    for key, parts in by.items():
        for value, part in parts.items():
            figures |= {f"by/{key}/{value}/{name}": estimate.value for name, estimate in part.estimates.items()}
    return figures


def _by_values(tasks: Sequence[Task], answers_PN: Answers, correct_PN: Correct, k: int, key: str) -> dict[str, Part]:
    rows: dict[str, list[int]] = {}
    for at, task in enumerate(tasks):
        rows.setdefault(value_of(task, key), []).append(at)
    parts = {}
    for value in sorted(rows, key=_in_order):
        mine = rows[value]
        if any(len(correct_PN[at]) >= k for at in mine):
            estimates = summarise([answers_PN[at] for at in mine], [correct_PN[at] for at in mine], k)
            parts[value] = Part(len(mine), estimates)
    return parts


def _in_order(value: str) -> tuple[list[tuple[int, str]], str]:
    """A key by which `Level 2` stands before `Level 10`."""
    return [(int(digits or -1), text) for digits, text in re.findall(r"(\d+)|(\D+)", value)], value


def _row(part: Part) -> dict[str, Any]:
    values = {name: estimate.value for name, estimate in part.estimates.items()}
    intervals = {name: [estimate.low, estimate.high] for name, estimate in part.estimates.items()}
    return {"tasks": part.tasks, **values, "intervals": intervals}


def _refuse_unfit(key: str, tasks: Sequence[Task]) -> None:
    values = {value_of(task, key) for task in tasks}
    if values == {NONE}:
        known: set[str] = set()
        for task in tasks:
            known.update(name for name, held in task.extra.items() if _is_plain(held))
        raise SodError(f"--by {key}: no task has that; they have {', '.join([SOURCE, *sorted(known)])}")
    if len(values) > MOST_VALUES:
        raise SodError(
            f"--by {key}: {len(tasks)} tasks have {len(values)} values of it, of which {MOST_VALUES} are shown at "
            "most; name a key that tasks share"
        )


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float) and value != ""

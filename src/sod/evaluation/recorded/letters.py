"""Which letter was right when a multiple-choice problem was asked: harnesses shuffle options, each in its own way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from sod.evaluation.benchmarks.problem import LETTERS, Problem
from sod.evaluation.recorded.matching import INSIDE
from sod.tasks.formats.base import BadRowError, Row
from sod.tasks.formats.columns import column_of

RIGHT = ("target", "gt", "ground_truth", "answer", "correct_answer", "correct_letter", "label", "truths", "gold")
"""Columns that hold the right letter as it was shown."""
_LETTER = re.compile(r"\(?([A-Z])[).]?")


def right_letter(row: Row) -> str:
    """The letter of the right option as the row tells it. Raises BadRowError where it does not."""
    inner = row.get(INSIDE)
    seen = {**inner, **row} if isinstance(inner, Mapping) else row
    for name in RIGHT:
        column = column_of(seen, [name])
        value = None if column is None else seen[column]
        first = value[0] if isinstance(value, list) and len(value) == 1 else value
        found = _LETTER.fullmatch(first.strip()) if isinstance(first, str) else None
        if found is not None:
            return found[1]
    raise BadRowError(
        f"no column says which letter was right when it was asked ({', '.join(RIGHT)}), and every harness shuffles the "
        "options in its own way; add a column 'target' with that letter"
    )


def with_right(problem: Problem, letter: str) -> Problem:
    """The problem with its right option at the letter. Raises BadRowError for one beyond its options."""
    at = LETTERS.index(letter)
    if at >= len(problem.choices):
        raise BadRowError(f"the right letter is {letter}, and the problem has {len(problem.choices)} options")
    others = [choice for place, choice in enumerate(problem.choices) if place != problem.right]
    choices = (*others[:at], problem.choices[problem.right], *others[at:])
    return replace(problem, choices=choices, right=at)

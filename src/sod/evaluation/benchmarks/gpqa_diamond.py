"""GPQA-Diamond: 198 questions with four options each (Rein et al., arXiv 2311.12022). The set is gated.

Its authors ask that no question be shown in the open: nothing here prints or keeps one but the episodes of an
evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

from sod.evaluation.benchmarks.base import Benchmark, code_task, text_in, value_in
from sod.evaluation.benchmarks.problem import LETTERS, Problem
from sod.tasks.formats.base import Row
from sod.tasks.formats.choices import CHOICES

NAME = "gpqa_diamond"
RIGHT = ("Correct Answer",)
WRONG = tuple(f"Incorrect Answer {number}" for number in (1, 2, 3))
LISTED = ("choices", "options")
DIFFICULTY = ("Writer's Difficulty Estimate", "difficulty")


def _recognises(rows: Sequence[Row]) -> bool:
    return len(rows) == 198 and all(value_in(row, (column,)) is not None for row in rows for column in (*RIGHT, *WRONG))


def _read(row: Row, name: str) -> Problem:
    question = text_in(row, ("Question",))
    if value_in(row, RIGHT) is None or value_in(row, (WRONG[0],)) is None:
        return _lettered(row, name, question)
    choices = (text_in(row, RIGHT), *(text_in(row, (column,)) for column in WRONG))
    return Problem(name, NAME, "choice", question, choices[0], choices, difficulty=_difficulty(row), row=row)


def _lettered(row: Row, name: str, question: str) -> Problem:
    """A row of a mirror that has a list of options and the letter or index of the right one."""
    task = code_task(CHOICES, row, name)
    choices, right = tuple(task.extra["choices"]), LETTERS.index(task.ground_truth)
    return Problem(name, NAME, "choice", question, choices[right], choices, right, _difficulty(row), row=row)


def _difficulty(row: Row) -> str | None:
    """The writer's estimate without the sentence that explains it."""
    said = value_in(row, DIFFICULTY)
    return said.partition("(")[0].strip() or None if isinstance(said, str) else None


GPQA_DIAMOND = Benchmark(
    name=NAME,
    title="GPQA-Diamond",
    kind="choice",
    hub="Idavidrein/gpqa",
    files=("gpqa_diamond.csv",),
    count=198,
    words=("gpqadiamond",),
    needs=(("Question",), (*RIGHT, *LISTED), (WRONG[0], *LISTED)),
    recognises=_recognises,
    read=_read,
    gated=True,
    others={448: "gpqa_main", 546: "gpqa_extended"},
)

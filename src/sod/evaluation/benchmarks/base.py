"""What a benchmark is: where its problems are published, and how one row of them is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from sod.evaluation.benchmarks.problem import Kind, Problem
from sod.records import Task
from sod.tasks.formats.base import BadRowError, Fields, Row, Shape
from sod.tasks.formats.columns import EMPTY, column_of

QUESTIONS = ("problem", "question", "prompt", "input")
ANSWERS = ("answer", "expected_answer", "final_answer", "ground_truth", "output")
"""What published sets and their mirrors call the two columns of mathematics."""


@final
@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Its published rows are `files` (globs) of the Hub's data set `hub`, `count` problems; `others` are other numbers of
    problems under which parts or extensions of it are known, with what they are called. In a folder its files are those
    whose path holds one of `words` (lower case, letters and digits alone), or whose rows it `recognises`. `split` is
    the only split that counts where a file's name tells one. `gate` is what has to be done to read a gated set. A row
    needs one column of each of `needs`; `read(row, id)` raises BadRowError.
    """

    name: str
    title: str
    kind: Kind
    hub: str
    files: tuple[str, ...]
    count: int
    words: tuple[str, ...]
    needs: tuple[tuple[str, ...], ...]
    recognises: Callable[[Sequence[Row]], bool]
    read: Callable[[Row, str], Problem]
    split: str | None = None
    gated: bool = False
    several: bool = False
    others: Mapping[int, str] = field(default_factory=dict)
    select: Callable[[Sequence[tuple[int, Row]]], list[tuple[int, Row]]] = list

    def missing(self, row: Row) -> tuple[str, ...] | None:
        """The names of a column that the row needs and lacks, the published one first; None where it has all."""
        return next((names for names in self.needs if value_in(row, names) is None), None)


def value_in(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """What a row has in the first of these columns that holds something; None for nothing."""
    column = column_of(row, names)
    return None if column is None or row[column] in EMPTY else row[column]


def text_in(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """The text of the first of these columns that holds something. Raises BadRowError for what is no text."""
    value = value_in(row, names)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRowError(f"{names[0]} is no text")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a table with gaps makes 204 a 204.0
    return str(value).strip()


def math_problem(benchmark: str, row: Row, name: str, difficulty: str | None = None) -> Problem:
    """A problem with a final answer in a column of its own."""
    question, answer = text_in(row, QUESTIONS), text_in(row, ANSWERS)
    return Problem(name, benchmark, "math", question, answer, difficulty=difficulty, row=row)


def integer_answers(rows: Sequence[Row]) -> bool:
    """Whether all rows are problems of AIME: each with an integer from 0 to 999 as its answer."""
    answers = [str(value_in(row, ANSWERS)) for row in rows]
    asked = all(isinstance(value_in(row, QUESTIONS), str) for row in rows)
    return asked and all(answer.isdecimal() and int(answer) < 1000 for answer in answers)


def of_year(rows: Sequence[Row], year: str) -> bool:
    """Whether rows say, in a column beside problem and answer, that they are of a year's AIME."""
    said = [str(value_in(row, (name,))) for row in rows for name in ("id", "year", "url", "source")]
    return any(year in text for text in said)


def code_task(shape: Shape[Task], row: Row, name: str) -> Task:
    """The tests of a programming problem, as the shape of its rows reads them."""
    return shape.read(Fields(row), name)

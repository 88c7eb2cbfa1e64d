"""Which problem of a benchmark a row of recorded outputs is about: by its id, by its question, or by its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import final

from sod.evaluation.benchmarks.problem import Problem
from sod.tasks.formats.base import BadRowError, Row
from sod.tasks.formats.columns import column_of

NAMED = ("task_id", "problem_id", "question_id", "unique_id")
"""Columns that hold the benchmark's own ids, where a value is one."""
NUMBERED = ("doc_id", "idx", "index", "id")
"""Columns that hold an id, or else the place of a problem in the benchmark, from 0."""
ASKED = ("question", "problem", "question_content", "query", "prompt", "input", "full_prompt", "instruction")
"""Columns that hold the question, or a prompt with the question in it."""
INSIDE = "doc"
"""Where lm-eval has the benchmark's own row."""
SHORTEST = 20
"""Characters of a question at least by which a prompt is known to hold it."""


@final
class Matcher:
    """Finds the problems of rows; it remembers the prompts that it has seen."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._problems = problems
        self._by_id = {problem.id: problem for problem in problems}
        spelled = [_plain(problem.question) for problem in problems]
        times = Counter(spelled)
        pairs = zip(spelled, problems, strict=True)
        self._by_question = {text: problem for text, problem in pairs if times[text] == 1}
        self._inside = lru_cache(maxsize=4096)(self._contained)

    def found(self, row: Row) -> tuple[Problem, str]:
        """The problem of a row, and the column that told. Raises BadRowError where there is none.

        A question that is the benchmark's own counts before ids, ids before a prompt around a question. A mere number
        counts only in a row that shows no question: else it might be another set's.
        """
        inner = row.get(INSIDE)
        seen = {**inner, **row} if isinstance(inner, Mapping) else row
        asked = _texts_in(seen, ASKED)
        for column, text in asked.items():
            if _plain(text) in self._by_question:
                return self._by_question[_plain(text)], column
        named = self._named(seen, NAMED)
        if named is not None:
            return named
        for column, text in asked.items():
            problem = self._inside(text)
            if problem is not None:
                return problem, column
        numbered = None if asked else self._named(seen, NUMBERED) or self._placed(seen)
        if numbered is None:
            raise BadRowError(self._unknown(seen, list(asked)))
        return numbered

    def _named(self, row: Row, columns: Sequence[str]) -> tuple[Problem, str] | None:
        for name in columns:
            column = column_of(row, [name])
            problem = None if column is None else self._by_id.get(str(row[column]))
            if column is not None and problem is not None:
                return problem, column
        return None

    def _placed(self, row: Row) -> tuple[Problem, str] | None:
        for name in NUMBERED:
            column = column_of(row, [name])
            place = None if column is None else row[column]
            if column is None or isinstance(place, bool) or not isinstance(place, int):
                continue
            if 0 <= place < len(self._problems):
                return self._problems[place], column
        return None

    def _contained(self, prompt: str) -> Problem | None:
        """The problem with the longest question that stands in a prompt."""
        text = _plain(prompt)
        inside = [question for question in self._by_question if len(question) >= SHORTEST and question in text]
        return self._by_question[max(inside, key=len)] if inside else None

    def _unknown(self, row: Row, asked: Sequence[str]) -> str:
        ids = [column for column in (column_of(row, [name]) for name in (*NAMED, *NUMBERED)) if column is not None]
        told = [f"{column} is {row[column]!r}" for column in ids]
        told += [f"{column} holds none of its questions" for column in asked]
        if told:
            return f"it is about no problem of {self._problems[0].benchmark}: {'; '.join(told)}"
        names, columns = ", ".join((*NAMED, *NUMBERED, *ASKED)), ", ".join(row) or "none"
        return f"nothing says which problem it is about: no {names} (columns found: {columns})"


def _texts_in(row: Row, columns: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in columns:
        column = column_of(row, [name])
        if column is not None and isinstance(row[column], str) and row[column].strip():
            found[column] = row[column]
    return found


def _plain(text: str) -> str:
    """A question without what copies change: the spaces."""
    return " ".join(text.split())

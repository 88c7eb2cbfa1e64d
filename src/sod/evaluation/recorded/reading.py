"""Recorded outputs: what a model said to the problems of a benchmark, in the file of whoever asked it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from sod.evaluation.benchmarks.problem import Problem
from sod.evaluation.recorded.columns import PROGRAMS, WRITTEN, output_column, texts_of
from sod.evaluation.recorded.letters import right_letter
from sod.evaluation.recorded.matching import Matcher
from sod.records import SodError
from sod.tasks.formats.base import BadRowError, Row
from sod.tasks.loaded import number_in_file, skips_line
from sod.tasks.sources import Part, files_of, read_parts

FILTER = "filter"
"""The column in which lm-eval names the filter of a row; it writes every output once for each."""


@final
@dataclass(frozen=True)
class Recorded:
    """The outputs in `source`, by problem id, in the order of the file. Every problem has one at least.

    `rows` are those that were read, `columns` where their outputs stood, `matched` how many rows each column placed.
    `letters` are the right ones of multiple choice as it was asked, by problem id.
    """

    source: str
    outputs: Mapping[str, Sequence[str]]
    rows: int
    columns: Sequence[str]
    matched: Mapping[str, int]
    letters: Mapping[str, str] = field(default_factory=dict)

    def about(self) -> dict[str, Any]:
        """What a result says about them."""
        counts = [len(texts) for texts in self.outputs.values()]
        return {
            "source": self.source,
            "sha256": {path.name: _sha256(path) for path in files_of(self.source)},
            "rows": self.rows,
            "outputs": sum(counts),
            "outputs_per_problem": [min(counts), max(counts)],
            "columns": list(self.columns),
            "matched_by": dict(self.matched),
        }


def read_recorded(
    source: str, problems: Sequence[Problem], notice: Callable[[str], None], column: str | None = None
) -> Recorded:
    """The outputs in `source` (as a data key names it), whose texts stand in `column` or in the usual ones.

    Raises SodError, naming file and row, where a row is about none of `problems`, has no output, or is about a choice
    and does not tell the right letter.
    """
    reader = _Reader(problems)
    columns: dict[str, None] = {}
    rows = 0
    for part in _parts(source):
        kept = _of_one_filter(part, notice)
        texts_in = column or _column_of(part, kept, problems[0])
        columns[texts_in] = None
        for number, row in kept:
            try:
                reader.add(row, texts_in)
            except BadRowError as error:
                raise SodError(f"{part.name}: row {number_in_file(number)}: {error}") from error
        rows += len(kept)
    return Recorded(source, reader.outputs, rows, tuple(columns), reader.matched, reader.letters)


@final
class _Reader:
    """What was read so far."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.outputs: dict[str, list[str]] = {}
        self.matched: Counter[str] = Counter()
        self.letters: dict[str, str] = {}
        self._matcher = Matcher(problems)

    def add(self, row: Row, column: str) -> None:
        """Another row. Raises BadRowError."""
        texts = texts_of(row, column)
        problem, told_by = self._matcher.found(row)
        if problem.kind == "choice":
            self._add_letter(problem.id, right_letter(row))
        self.outputs.setdefault(problem.id, []).extend(texts)
        self.matched[told_by] += 1

    def _add_letter(self, name: str, letter: str) -> None:
        before = self.letters.setdefault(name, letter)
        if before != letter:
            raise BadRowError(
                f"the right letter of {name} is {letter} here and {before} in an earlier row; score the rows of each "
                "order of the options by themselves"
            )


def _parts(source: str) -> list[Part]:
    """What is read. Raises SodError for a row that is none: a figure is of all outputs."""
    parts = read_parts(source)
    for part in parts:
        if part.skipped:
            raise SodError(
                f"{part.name}: {skips_line(part.skipped)}; a figure is of every output, so mend or remove them"
            )
    return parts


def _of_one_filter(part: Part, notice: Callable[[str], None]) -> list[tuple[int, Row]]:
    filters = list(dict.fromkeys(row[FILTER] for _, row in part.rows if isinstance(row.get(FILTER), str)))
    if len(filters) < 2:
        return part.rows
    notice(
        f"{part.name}: lm-eval wrote each output once for each of its filters, {', '.join(filters)}; the rows of "
        f"{filters[0]} are read"
    )
    return [(number, row) for number, row in part.rows if row.get(FILTER) == filters[0]]


def _column_of(part: Part, rows: Sequence[tuple[int, Row]], problem: Problem) -> str:
    number, first = rows[0]
    column = output_column(first, problem.kind)
    if column is None:
        known = (*WRITTEN, *PROGRAMS) if problem.kind == "code" else WRITTEN
        raise SodError(
            f"{part.name}: row {number_in_file(number)}: no column of outputs, such as {', '.join(known)} (columns "
            f"found: {', '.join(first) or 'none'}); name it with --column"
        )
    return column


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

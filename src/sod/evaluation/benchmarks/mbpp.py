"""MBPP's test split: 500 functions, each with assertions (Austin et al., arXiv 2108.07732).

Its file holds 974 problems, of which 11 to 510 are the test split; what is numbered otherwise is left out where a file
has more. MBPP+ numbers its 378 as `Mbpp/2`: those are all its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from sod.evaluation.benchmarks.base import Benchmark, code_task, text_in, value_in
from sod.evaluation.benchmarks.problem import Problem
from sod.tasks.formats.base import Row
from sod.tasks.formats.code_mbpp import MBPP as SHAPE

NAME = "mbpp"
FIRST, LAST = 11, 510
STATEMENT = ("text", "prompt", "question")


def _recognises(rows: Sequence[Row]) -> bool:
    return all("test_list" in row and "task_id" in row for row in rows)


def _read(row: Row, name: str) -> Problem:
    reference = value_in(row, ("code", "canonical_solution"))
    task = code_task(SHAPE, row, name)
    return Problem(name, NAME, "code", text_in(row, STATEMENT), str(reference or ""), task=task, row=row)


def _test_split(rows: Sequence[tuple[int, Row]]) -> list[tuple[int, Row]]:
    chosen = [(number, row) for number, row in rows if _in_test_split(row.get("task_id"))]
    return chosen or list(rows)


def _in_test_split(number: object) -> bool:
    return not isinstance(number, int) or FIRST <= number <= LAST


MBPP = Benchmark(
    name=NAME,
    title="MBPP",
    kind="code",
    hub="google-research-datasets/mbpp",
    files=("full/test-*.parquet",),
    count=500,
    words=("mbpp",),
    needs=(STATEMENT, ("test_list", "test")),
    recognises=_recognises,
    read=_read,
    split="test",
    others={257: "the sanitized test split", 378: "MBPP+"},
    select=_test_split,
)

"""MATH-500: 500 problems of MATH's test split (Lightman et al., arXiv 2305.20050), each with a level from 1 to 5."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sod.evaluation.benchmarks.base import ANSWERS, QUESTIONS, Benchmark, math_problem, value_in
from sod.evaluation.benchmarks.problem import Problem
from sod.tasks.formats.base import Row

NAME = "math500"


def _recognises(rows: Sequence[Row]) -> bool:
    return len(rows) == 500 and all(_level(row) is not None and value_in(row, ANSWERS) is not None for row in rows)


def _level(row: Row) -> str | None:
    """`1` to `5`, which some mirrors write as `Level 5`."""
    found = re.fullmatch(r"(?:Level )?([1-5])(?:\.0)?", str(value_in(row, ("level", "difficulty"))).strip())
    return found[1] if found else None


def _read(row: Row, name: str) -> Problem:
    return math_problem(NAME, row, name, _level(row))


MATH500 = Benchmark(
    name=NAME,
    title="MATH-500",
    kind="math",
    hub="HuggingFaceH4/MATH-500",
    files=("test.jsonl", "*.parquet", "data/*.parquet"),
    count=500,
    words=("math500",),
    needs=(QUESTIONS, ANSWERS),
    recognises=_recognises,
    read=_read,
    split="test",
    others={5000: "MATH's whole test split", 12500: "MATH's both splits"},
)

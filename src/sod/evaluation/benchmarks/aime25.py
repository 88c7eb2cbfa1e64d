"""AIME 2025: both exams, 30 problems with integers from 0 to 999. Mirrors: yentinglin/aime_2025, opencompass/AIME2025.

The last names its two files by exam; of math-ai's rows the ids are numbers, from which no year can be told.
"""

from __future__ import annotations

from collections.abc import Sequence

from sod.evaluation.benchmarks.base import ANSWERS, QUESTIONS, Benchmark, integer_answers, math_problem, of_year
from sod.tasks.formats.base import Row

NAME = "aime25"


def _recognises(rows: Sequence[Row]) -> bool:
    return len(rows) == 30 and integer_answers(rows) and of_year(rows, "2025")


AIME25 = Benchmark(
    name=NAME,
    title="AIME 2025",
    kind="math",
    hub="math-ai/aime25",
    files=("*.jsonl", "*.parquet", "data/*.parquet"),
    count=30,
    words=("aime25", "aime2025"),
    needs=(QUESTIONS, ANSWERS),
    recognises=_recognises,
    read=lambda row, name: math_problem(NAME, row, name),
    several=True,
    others={15: "one of the two exams"},
)

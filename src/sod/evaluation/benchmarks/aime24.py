"""AIME 2024: both exams, 30 problems with integers from 0 to 999. Mirrors: HuggingFaceH4/aime_2024, ReTool's files."""

from __future__ import annotations

from collections.abc import Sequence

from sod.evaluation.benchmarks.base import ANSWERS, QUESTIONS, Benchmark, integer_answers, math_problem, of_year
from sod.tasks.formats.base import Row

NAME = "aime24"


def _recognises(rows: Sequence[Row]) -> bool:
    return len(rows) == 30 and integer_answers(rows) and of_year(rows, "2024")


AIME24 = Benchmark(
    name=NAME,
    title="AIME 2024",
    kind="math",
    hub="Maxwell-Jia/AIME_2024",
    files=("*.parquet", "data/*.parquet", "*.jsonl"),
    count=30,
    words=("aime24", "aime2024"),
    needs=(QUESTIONS, ANSWERS),
    recognises=_recognises,
    read=lambda row, name: math_problem(NAME, row, name),
    others={15: "one of the two exams", 90: "AI-MO/aimo-validation-aime, three years"},
)

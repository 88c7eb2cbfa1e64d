"""GSM8K's test split: 1,319 problems (Cobbe et al., arXiv 2110.14168). The answer stands behind `####`."""

from __future__ import annotations

from collections.abc import Sequence

from sod.evaluation.benchmarks.base import Benchmark, text_in, value_in
from sod.evaluation.benchmarks.problem import Problem
from sod.tasks.formats.base import BadRowError, Row

NAME = "gsm8k"
MARK = "####"


def _recognises(rows: Sequence[Row]) -> bool:
    return all(MARK in str(value_in(row, ("answer",))) and "question" in row for row in rows)


def _read(row: Row, name: str) -> Problem:
    _, mark, final = text_in(row, ("answer",)).rpartition(MARK)
    if not mark or not final.strip():
        raise BadRowError(f"answer has no final answer behind {MARK}")
    return Problem(name, NAME, "math", text_in(row, ("question",)), final.strip(), row=row)


GSM8K = Benchmark(
    name=NAME,
    title="GSM8K",
    kind="math",
    hub="openai/gsm8k",
    files=("main/test-*.parquet",),
    count=1319,
    words=("gsm8k",),
    needs=(("question",), ("answer",)),
    recognises=_recognises,
    read=_read,
    split="test",
    others={7473: "the train split", 8792: "both splits"},
)

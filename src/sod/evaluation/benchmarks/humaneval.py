"""HumanEval: 164 functions to complete, each with a `check` (Chen et al., arXiv 2107.03374).

HumanEval+ has its shape and its number of problems, with more tests: the fingerprint tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from sod.evaluation.benchmarks.base import Benchmark, code_task, value_in
from sod.evaluation.benchmarks.problem import Problem
from sod.tasks.formats.base import BadRowError, Row
from sod.tasks.formats.code_humaneval import HUMANEVAL as SHAPE

NAME = "humaneval"


def _recognises(rows: Sequence[Row]) -> bool:
    return all(str(row.get("task_id")).startswith("HumanEval/") and "entry_point" in row for row in rows)


def _read(row: Row, name: str) -> Problem:
    prompt, reference = row.get("prompt"), value_in(row, ("canonical_solution",))
    if not isinstance(prompt, str):
        raise BadRowError("prompt is no text")
    task = code_task(SHAPE, row, name)
    return Problem(name, NAME, "code", prompt, str(reference or ""), task=task, row=row)  # prompts end with a newline


HUMANEVAL = Benchmark(
    name=NAME,
    title="HumanEval",
    kind="code",
    hub="openai/openai_humaneval",
    files=("openai_humaneval/test-*.parquet",),
    count=164,
    words=("humaneval",),
    needs=(("prompt",), ("entry_point",), ("test", "assertion")),
    recognises=_recognises,
    read=_read,
    split="test",
)

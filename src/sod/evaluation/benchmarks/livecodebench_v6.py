"""LiveCodeBench, release_v6: 1,055 problems of code generation (Jain et al., arXiv 2403.07974).

A release is the sum of the files `test.jsonl` to `testN.jsonl`. Papers call two sets "v6": the whole release, and
`test6.jsonl` alone, the 175 problems that it added; the result says how many were read. The private tests are pickles
in zlib in base64, which the sandbox unpacks (`sod.rewards.code_unpacking`): this process never does.
"""

from __future__ import annotations

from collections.abc import Sequence

from sod.evaluation.benchmarks.base import Benchmark, code_task, text_in, value_in
from sod.evaluation.benchmarks.problem import Problem
from sod.tasks.formats.base import Row
from sod.tasks.formats.code_livecodebench import LIVECODEBENCH

NAME = "livecodebench_v6"
TESTS = ("public_test_cases", "private_test_cases")
STATEMENT = ("question_content",)


def _recognises(rows: Sequence[Row]) -> bool:
    return all(STATEMENT[0] in row and TESTS[1] in row for row in rows)


def _read(row: Row, name: str) -> Problem:
    difficulty = value_in(row, ("difficulty",))
    task = code_task(LIVECODEBENCH, row, name)
    shown = {column: value for column, value in row.items() if column != TESTS[1]}  # they take gigabytes
    return Problem(
        name,
        NAME,
        "code",
        text_in(row, STATEMENT),
        "",
        difficulty=None if difficulty is None else str(difficulty),
        task=task,
        row=shown,
    )


LIVECODEBENCH_V6 = Benchmark(
    name=NAME,
    title="LiveCodeBench v6",
    kind="code",
    hub="livecodebench/code_generation_lite",
    files=("test.jsonl", "test[2-6].jsonl"),
    count=1055,
    words=("livecodebench", "codegenerationlite"),
    needs=(STATEMENT, (TESTS[0],), (TESTS[1],)),
    recognises=_recognises,
    read=_read,
    split="test",
    several=True,
    others={
        175: "those that v6 added, test6.jsonl",
        880: "release_v5",
        713: "release_v4",
        612: "release_v3",
        511: "release_v2",
        400: "release_v1",
    },
)

"""The answer's interpreter starts with next to nothing: two thirds of the time of a short program were imports."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sod.records import Task, Verdict
from sod.rewards import code_harness_answer as answer
from sod.rewards.code import CodeVerifier
from sod.rewards.code_suites import read_suite
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.local import LocalSandbox

ROOT = Path(__file__).parents[2]
LOADED = """
import sys


def loaded():
    return [name for name in ("json", "re", "typing", "contextlib", "collections", "types") if name in sys.modules]
"""


@pytest.mark.slow
def test_nothing_is_imported_before_the_program_asks_for_it() -> None:
    tests = {"prompt": "", "entry_point": "loaded", "test": "def check(candidate):\n    assert candidate() == []\n"}
    suite = read_suite(Task("t", (), json.dumps(tests)))
    sandbox = LocalSandbox(ProgramLimits(seconds=60.0), workers=1, preload=())
    try:
        (verdict,) = CodeVerifier(sandbox.execute).judged([(suite, LOADED)])
    finally:
        sandbox.close()
    assert isinstance(verdict, Verdict)
    assert verdict.correct, verdict.detail


@pytest.mark.parametrize(
    "value",
    [
        None,
        [True, False, 0, -1, 10**40],
        {"a": [1.5, -0.0, 1e300, 0.1], "b": {"c": []}},
        'quotes " and \\ and \n\t\x00 and ü, 漢, 🙂 and half a pair \ud800',
        {},
        "",
    ],
)
def test_it_writes_and_reads_json_as_the_library_does(value: Any) -> None:
    dumps, loads = answer.json_functions()
    assert dumps(value) == json.dumps(value)
    assert loads(json.dumps(value) + "\n") == value


def test_numbers_that_are_none_cross_too() -> None:
    dumps, loads = answer.json_functions()
    assert dumps([math.inf, -math.inf]) == "[Infinity, -Infinity]"
    assert loads("[Infinity, -Infinity]") == [math.inf, -math.inf]
    assert math.isnan(loads(dumps(math.nan)))


def test_what_is_no_json_is_a_type_error_as_of_the_library() -> None:
    dumps, _ = answer.json_functions()
    with pytest.raises(TypeError):
        dumps({"a": object()})


@pytest.mark.slow
def test_the_measure_of_programs_a_minute_counts_right_and_wrong_ones(tmp_path: Path) -> None:
    """`benchmarks/humaneval.py` on two problems of our own."""
    rows = [
        {
            "task_id": f"Own/{number}",
            "prompt": f"def plus(n):\n    # {number} more\n",
            "entry_point": "plus",
            "canonical_solution": f"    return n + {number}\n",
            "test": f"def check(candidate):\n    assert candidate(1) == {number + 1}\n",
        }
        for number in (1, 2)
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, str(ROOT / "benchmarks" / "humaneval.py"), str(path), "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reference solutions: 4 of 4 pass" in done.stdout
    assert "stubs: 0 of 4 pass" in done.stdout
    assert done.stdout.count("programs a minute") == 2

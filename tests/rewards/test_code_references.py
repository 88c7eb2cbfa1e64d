"""Broken tests and failing reference solutions are found before any answer is judged, in the real sandbox."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sod.records import Execution, Fault, FaultKind, SodError, Task
from sod.rewards.code import CodeVerifier
from sod.rewards.code_references import reference_programs, task_faults
from sod.rewards.code_suites import read_suite
from sod.tools.sandbox.local import LocalSandbox

CHECK = "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(4) == 8\n"
CASES = {"fn_name": "f", "inputs": [[1], [4]], "outputs": [[2], [8]]}
RIGHT, WRONG = "def f(x):\n    return 2 * x\n", "def f(x):\n    return 2\n"
UNITTEST = "import unittest\nclass TestCases(unittest.TestCase):\n    def test_one(self):\n        "


def checked(test: str, **more: Any) -> dict[str, Any]:
    return {"prompt": "", "entry_point": "f", "test": test, **more}


# What a task has, and why it is at fault (a part of the reason).
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "syntax": (checked("def check(candidate) assert"), "SyntaxError"),
    "no check": (checked("def checks(candidate): pass"), "the tests define no check(candidate)"),
    "module": (checked("import no_such_module\n" + CHECK), "No module named 'no_such_module'"),
    "module of the prompt": (checked(CHECK, prompt="import no_such_module\n"), "No module named 'no_such_module'"),
    "module in check": (checked(CHECK + "    import no_such_module\n"), "No module named 'no_such_module'"),
    "name": (checked(CHECK + "    assert helper(candidate(1))\n"), "name 'helper' is not defined"),
    "error at the start": (checked("1 / 0\n" + CHECK), "ZeroDivisionError"),
    "error before the first call": (checked(CHECK.replace(":\n", ":\n    int('x')\n", 1)), "ValueError"),
    "check takes two": (checked("def check(candidate, more):\n    pass"), "missing 1 required positional argument"),
    "empty check": (checked("def check(candidate):\n    pass"), "the tests pass a function that only raises"),
    "empty check with a reference": (checked("def check(candidate):\n    pass", solution=RIGHT), "only raises"),
    "never ends": (checked("while True: pass"), "the tests did not come to their end"),
    "ends Python": (checked("import os\nos._exit(0)"), "the tests did not come to their end"),
    "unittest without tests": (
        checked("import unittest\nclass TestCases(unittest.TestCase):\n    pass"),
        "no test of the TestCase ran",
    ),
    "unittest of missing modules": (checked("import no_such_module\n" + UNITTEST + "pass\n"), "No module named"),
    "unittest with a broken setUp": (
        checked(UNITTEST.replace("    def", "    def setUp(self):\n        1 / 0\n    def") + "f(1)\n"),
        "ZeroDivisionError",
    ),
    "unittest that patches": (
        checked(
            "from unittest.mock import patch\n" + UNITTEST + "with patch('os.getpid', return_value=-1):\n"
            "            self.assertEqual(f(), -1)\n",
            canonical_solution="import os\ndef f():\n    return os.getpid()\n",
        ),
        "its reference solution fails: test_one: self.assertEqual(f(), -1)",
    ),
    "arguments that cannot cross": (
        checked(UNITTEST + "self.assertEqual(f(print), 1)\n", canonical_solution="def f(x):\n    return 1\n"),
        "the tests pass builtin_function_or_method",
    ),
    "reference that fails": (checked(CHECK, canonical_solution=WRONG), "its reference solution fails: assert"),
    "reference that is no Python": (checked(CHECK, canonical_solution="def f(x) return"), "SyntaxError"),
    "reference of cases that fails": ({**CASES, "solution": WRONG}, "its reference solution fails: test 2"),
    "all references fail": ({**CASES, "solutions": json.dumps([WRONG, WRONG + "\n"])}, "its reference solution fails"),
}
SOUND: dict[str, dict[str, Any]] = {
    "check": checked(CHECK),
    "assertions": checked("assert f(1) == 2"),
    "unittest": checked(UNITTEST + "self.assertEqual(f(1), 2)\n"),
    "continued prompt": checked(CHECK, prompt="def f(x):\n", canonical_solution="    return 2 * x\n"),
    "tried import": checked("try:\n    import no_such_module\nexcept ImportError:\n    pass\n" + CHECK),
    "import that is not needed": checked(CHECK + "def other():\n    import no_such_module\n", solution=RIGHT),
    "name that is made": checked("def make():\n    global n\n    n = 2\n" + CHECK + "    make()\n    assert n\n"),
    "cases": CASES,
    "one of several references": {**CASES, "solutions": [WRONG, RIGHT]},
    "fenced reference": {**CASES, "solution": f"Double it:\n```python\n{RIGHT}```\n"},
    "prose": {**CASES, "solution": "f doubles its argument"},
    "another language": {**CASES, "code": "int f(int x) { return 2 * x; }"},
    "CodeContests": {
        "public_tests": {"input": ["1", "4"], "output": ["2", "8"]},
        "solutions": {"language": [2, 3], "solution": ["int main() {}", "print(2 * int(input()))"]},
    },
}


def tasks(rows: dict[str, dict[str, Any]]) -> list[Task]:
    return [Task(name, (), "", extra=row) for name, row in rows.items()]


@pytest.mark.slow
def test_broken_tests_are_the_tasks_fault_and_sound_ones_are_not(sandbox: LocalSandbox) -> None:
    verifier = CodeVerifier(sandbox.execute, seconds=5.0)
    rows = {name: row for name, (row, _) in BROKEN.items()} | SOUND
    seen: list[int] = []
    faults = task_faults(verifier, tasks(rows), lambda done, _: seen.append(done))
    assert {name: faults[name] for name in faults if name in SOUND} == {}
    for name, (_, reason) in BROKEN.items():
        assert reason in faults.get(name, "nothing"), (name, faults.get(name))
    assert seen == [len(rows)]


def test_tests_without_a_check_are_found(sandbox: LocalSandbox) -> None:
    rows = {
        "no check": BROKEN["no check"][0],
        "check": SOUND["check"],
        "reference that fails": checked(CHECK, solution=WRONG),
    }
    faults = task_faults(CodeVerifier(sandbox.execute), tasks(rows), lambda *_: None)
    assert list(faults) == ["no check", "reference that fails"]


def test_references_are_found_under_their_usual_names() -> None:
    def found(row: dict[str, Any]) -> list[str]:
        task = Task("t", (), row.pop("ground_truth", ""), extra=row)
        return reference_programs(task, read_suite(task))

    assert found({**CASES, "solution": RIGHT}) == [RIGHT]
    assert found({"ground_truth": json.dumps({**CASES, "solutions": [RIGHT] * 9})}) == [RIGHT] * 3
    assert found(checked(CHECK, canonical_solution="    return 2 * x\n", code=RIGHT)) == ["    return 2 * x\n"]
    assert found({"inputs": ["1"], "outputs": ["2"], "solution": "42"}) == []
    assert found({**CASES, "solutions": 5, "completion": RIGHT}) == [RIGHT]
    assert found(CASES) == []


def test_a_sandbox_that_fails_is_no_tasks_fault() -> None:
    def failing(programs: Any) -> list[Execution | Fault]:
        return [Fault(FaultKind.SANDBOX, "worker lost") for _ in programs]

    for row in (SOUND["check"], {**CASES, "solution": RIGHT}):
        with pytest.raises(SodError, match="the sandbox failed while tests were checked: sandbox: worker lost"):
            task_faults(CodeVerifier(failing), tasks({"t": row}), lambda *_: None)

"""Rows of the field's programming sets, from the file to the verdict: right answers are right, wrong ones wrong."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sod.records import Episode, Verdict
from sod.rewards.code import CodeVerifier
from sod.rewards.code_references import task_faults
from sod.tasks.files import load_tasks
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.local import LocalSandbox
from support import answered

ADD = "a, b = map(int, input().split())\nprint(a + b)"
ADD_WRONG = "print(3)"
TWICE, TWICE_WRONG = "def twice(n):\n    return 2 * n", "def twice(n):\n    return n + 3"
METHOD = "class Solution:\n    def twice(self, n):\n        return 2 * n"
METHOD_WRONG = "class Solution:\n    def twice(self, n):\n        return n + 3"
ASSERTIONS = ["assert twice(3) == 6", "assert twice(5) == 10"]
STDIN = [{"input": "1 2\n", "output": "3\n"}, {"input": "3 4\n", "output": "7\n"}]
CALLS = [{"input": "3", "output": "6", "testtype": "functional"}, {"input": "5", "output": "10"}]
FUNCTION = {"fn_name": "twice", "inputs": [[3], [5]], "outputs": [[6], [10]]}
CHECK = "def check(candidate):\n    assert candidate(3) == 6\n    assert candidate(n=5) == 10\n"
UNITTEST = """
import unittest
class TestCases(unittest.TestCase):
    def setUp(self):
        self.three = 3
    def test_first(self):
        self.assertEqual(task_func(self.three), 6)
    def test_second(self):
        self.assertEqual(task_func(LARGE), 2 * LARGE)
"""
NODES = """
from typing import Optional
class ListNode:
    def __init__(self, val=0, next=None):
        self.val = val
        self.next = next
def nodes(values):
    head = None
    for value in reversed(values):
        head = ListNode(value, head)
    return head
def values(node):
    return [] if node is None else [node.val] + values(node.next)
"""
NODES_CHECK = """
def check(candidate):
    assert values(candidate(head=nodes([1, 2, 3]))) == [3, 2, 1]
    assert values(candidate(head=nodes(list(range(400))))) == list(range(400))[::-1]
    assert candidate(head=None) is None
"""
REVERSE = """
class Solution:
    def turned(self, head: Optional[ListNode]) -> Optional[ListNode]:
        done = None
        while head:
            head.next, done, head = done, head, head.next
        return done
"""


def packed(rows: Any) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(rows)))).decode()


# A row of a set, a right program and a wrong one.
SETS: dict[str, tuple[dict[str, Any], str, str]] = {
    "MBPP": ({"text": "Double.", "code": TWICE, "test_list": ASSERTIONS, "test_setup_code": ""}, TWICE, TWICE_WRONG),
    "MBPP with imports": (
        {"prompt": "Double.", "test_imports": ["import math"], "test_list": ["assert twice(math.e) == 2 * math.e"]},
        TWICE,
        TWICE_WRONG,
    ),
    "HumanEval": (
        {
            "prompt": "def twice(n):\n",
            "entry_point": "twice",
            "test": CHECK,
            "canonical_solution": "    return 2 * n\n",
        },
        "    return 2 * n",
        TWICE_WRONG,
    ),
    "HumanEval-X": (
        {
            "prompt": "from typing import List\n\ndef twice(n):\n",
            "test": "def check(twice):\n    assert twice(3) == 6\n    assert twice(5) == 10\n\ncheck(twice)",
            "canonical_solution": "    return 2 * n\n",
        },
        "    return 2 * n",
        TWICE_WRONG,
    ),
    "DeepSeek-Coder, LeetCode": (
        {
            "prompt": "class Solution:\n    def twice(self, nums: List[int]) -> int:\n        pass\n",
            "prompt_sft": "Double.",
            "test": "mine = Solution()\nassert mine.twice(n=3) == 6\nassert mine.twice(5) == 10",
        },
        METHOD,
        METHOD_WRONG,
    ),
    "NeMo-Gym": (
        {
            "responses_create_params": {"input": "Add."},
            "verifier_metadata": {"unit_tests": {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}},
        },
        ADD,
        ADD_WRONG,
    ),
    "APPS": ({"question": "Add.", "input_output": json.dumps({"inputs": ["1 2\n"], "outputs": ["3\n"]})}, ADD, "x = 3"),
    "TACO": ({"question": "Double.", "input_output": json.dumps(FUNCTION)}, METHOD, METHOD_WRONG),
    "CodeContests": (
        {
            "description": "Add.",
            "public_tests": {"input": ["1 2"], "output": ["3"]},
            "private_tests": {"input": ["3 4"], "output": ["7"]},
            "solutions": {"language": [2, 3], "solution": ["int main() {}", ADD]},
        },
        ADD,
        ADD_WRONG,
    ),
    "DeepCoder": (
        {"problem": "Add.", "tests": json.dumps(STDIN), "solutions": [f"```python\n{ADD}\n```"]},
        ADD,
        ADD_WRONG,
    ),
    "DeepCoder, function in its tests": (
        {"problem": "Double.", "tests": json.dumps(FUNCTION), "solutions": [TWICE]},
        TWICE,
        TWICE_WRONG,
    ),
    "PrimeIntellect, function": (
        {
            "problem": "Double.",
            "tests": json.dumps([{"type": "function_call", "fn_name": "twice", "input": [3], "output": [6]}]),
        },
        TWICE,
        "def twice(n):\n    return 5",
    ),
    "LiveCodeBench in rLLM's rows": (
        {
            "problem": "Double.",
            "tests": json.dumps(CALLS),
            "starter_code": "class Solution:\n    def twice(self, n):\n",
        },
        METHOD,
        METHOD_WRONG,
    ),
    "AceCode": (
        {"question": "Double.", "test_cases": ASSERTIONS, "inferences": [{"completion": TWICE, "pass_rate": 1.0}]},
        TWICE,
        TWICE_WRONG,
    ),
    "BigCodeBench": (
        {
            "instruct_prompt": "Double.",
            "code_prompt": "LARGE = 10 ** 9\ndef task_func(n):\n",
            "entry_point": "task_func",
            "test": UNITTEST,
            "canonical_solution": "    return 2 * n\n",
        },
        "LARGE = 10 ** 9\ndef task_func(n):\n    return 2 * n",
        "LARGE = 10 ** 9\ndef task_func(n):\n    return 6",
    ),
    "LeetCodeDataset": (
        {
            "query": "Turn it.",
            "prompt": NODES,
            "entry_point": "Solution().turned",
            "test": NODES_CHECK,
            "completion": REVERSE,
        },
        REVERSE,
        "class Solution:\n    def turned(self, head):\n        return head",
    ),
    "LiveCodeBench": (
        {
            "question_content": "Double.",
            "starter_code": "class Solution:\n    def twice(self, n: int) -> int:\n        ",
            "public_test_cases": json.dumps(CALLS[:1]),
            "private_test_cases": packed(CALLS),
            "metadata": json.dumps({"func_name": "twice"}),
        },
        METHOD,
        METHOD_WRONG,
    ),
    "SYNTHETIC-1": (
        {
            "prompt": "Add.",
            "verification_info": {"language": "python", "test_cases": STDIN},
            "gold_standard_solution": ADD,
        },
        ADD,
        ADD_WRONG,
    ),
}
TRUTHS: dict[str, tuple[Any, str, str]] = {
    "SkyRL": (json.dumps({"inputs": ["1 2", "3 4"], "outputs": ["3", "7"]}), ADD, ADD_WRONG),
    "Eurus, function": (json.dumps(FUNCTION), TWICE, TWICE_WRONG),
    "bare cases": (json.dumps(STDIN), ADD, ADD_WRONG),
    "bare cases as a list": (STDIN, ADD, ADD_WRONG),
    "cases as texts": (json.dumps([json.dumps(case) for case in STDIN]), ADD, ADD_WRONG),
    "assertions": (json.dumps(ASSERTIONS), TWICE, TWICE_WRONG),
    "assertions as a list": (ASSERTIONS, TWICE, "def twice(n):\n    return 6"),
    "MBPP's columns": (json.dumps({"test_list": ASSERTIONS}), TWICE, TWICE_WRONG),
    "code-r1": (json.dumps({"functional": f"{CHECK}\ncheck(Solution().twice)"}), METHOD, METHOD_WRONG),
    "KodCode without pytest": (
        json.dumps({"test": "from solution import twice\ndef test_a():\n    assert twice(3) == 6\n"}),
        TWICE,
        "def twice(n):\n    return 5",
    ),
}


@pytest.fixture(scope="module")
def verifier(sandbox: LocalSandbox) -> CodeVerifier:
    return CodeVerifier(sandbox.execute, seconds=20.0)


def of_tasks(path: Path, rows: list[dict[str, Any]]) -> list[Any]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_tasks(str(path)).items


def episode(task: Any, code: str) -> Episode:
    said = answered(f"So:\n```python\n{code}\n```")
    return Episode(task, said.trajectory)


def judged(verifier: CodeVerifier, tasks: list[Any], answers: list[tuple[str, str]]) -> list[list[bool]]:
    episodes = [episode(task, code) for task, pair in zip(tasks, answers, strict=True) for code in pair]
    verdicts = verifier.verify(episodes)
    assert all(isinstance(verdict, Verdict) for verdict in verdicts), verdicts
    right = [verdict.correct for verdict in verdicts if isinstance(verdict, Verdict)]
    return [right[at : at + 2] for at in range(0, len(right), 2)]


def test_rows_of_every_set_are_judged_by_their_tests(verifier: CodeVerifier, tmp_path: Path) -> None:
    tasks = of_tasks(tmp_path / "sets.jsonl", [row for row, _, _ in SETS.values()])
    found = judged(verifier, tasks, [(right, wrong) for _, right, wrong in SETS.values()])
    assert dict(zip(SETS, found, strict=True)) == {key: [True, False] for key in SETS}


def test_truths_of_every_kind_are_judged(verifier: CodeVerifier, tmp_path: Path) -> None:
    rows = [{"prompt": "?", "reward_model": {"ground_truth": truth}} for truth, _, _ in TRUTHS.values()]
    found = judged(
        verifier, of_tasks(tmp_path / "verl.jsonl", rows), [(right, wrong) for _, right, wrong in TRUTHS.values()]
    )
    assert dict(zip(TRUTHS, found, strict=True)) == {key: [True, False] for key in TRUTHS}


@pytest.mark.slow
def test_the_sets_own_solutions_pass(verifier: CodeVerifier, tmp_path: Path) -> None:
    tasks = of_tasks(tmp_path / "sets.jsonl", [row for row, _, _ in SETS.values()])
    assert task_faults(verifier, tasks, lambda *_: None) == {}


def test_a_verdict_names_the_first_test_that_fails(verifier: CodeVerifier, tmp_path: Path) -> None:
    row, _, wrong = SETS["BigCodeBench"]
    (task,) = of_tasks(tmp_path / "rows.jsonl", [row])
    (verdict,) = verifier.verify([episode(task, wrong)])
    assert isinstance(verdict, Verdict)
    assert verdict.detail.startswith(
        "test_second: self.assertEqual(task_func(LARGE), 2 * LARGE): AssertionError: 6 != "
    )


@pytest.mark.slow
def test_many_large_cases_are_judged(verifier: CodeVerifier, tmp_path: Path) -> None:
    line = " ".join(["7"] * 4000)
    cases = [{"input": f"{n} {line}\n", "output": f"{n + 28_000}\n"} for n in range(250)]
    (task,) = of_tasks(tmp_path / "rows.jsonl", [{"problem": "Sum.", "tests": json.dumps(cases)}])
    right, wrong = verifier.verify(
        [episode(task, code) for code in ("print(sum(map(int, input().split())))", "print(28_000)")]
    )
    assert isinstance(right, Verdict)
    assert isinstance(wrong, Verdict)
    assert right.correct, right
    assert wrong.detail == "test 2: expected '28001\\n', got '28000\\n'"


@pytest.mark.parametrize(
    ("set_", "printed", "right"),
    [
        ("APPS", "0.3333", False),
        ("APPS", "0.33333333", True),
        ("APPS", "0.33333333  7", False),
        ("LiveCodeBench", "0.33333333", False),
    ],
)
def test_numbers_may_be_close_where_the_sets_checker_takes_that(
    verifier: CodeVerifier, tmp_path: Path, set_: str, printed: str, right: bool
) -> None:
    case = {"input": "\n", "output": "0.333333333333"}
    rows = {
        "APPS": {"question": "x", "input_output": json.dumps({"inputs": [case["input"]], "outputs": [case["output"]]})},
        "LiveCodeBench": {"question_content": "x", "public_test_cases": json.dumps([case])},
    }
    (task,) = of_tasks(tmp_path / "rows.jsonl", [rows[set_]])
    (verdict,) = verifier.verify([episode(task, f"print('{printed}')")])
    assert isinstance(verdict, Verdict)
    assert verdict.correct is right


# --- pytest ---------------------------------------------------------------------------------------

PYTEST = """
import pytest
from solution import twice, Stack, EmptyError

@pytest.fixture
def stack():
    made = Stack()
    made.push(1)
    return made

@pytest.mark.parametrize("n, expected", [(3, 6), (5, 10)])
def test_twice(n, expected):
    assert twice(n) == expected

def test_errors(stack):
    with pytest.raises(ValueError, match="no number"):
        twice("x")
    with pytest.raises(EmptyError):
        stack.pop()
        stack.pop()
    with pytest.raises(IndexError, match="nothing"):
        stack.pop()

class TestStack:
    def test_push(self, stack):
        stack.push([2])
        assert len(stack) == 2 and stack.pop() == [2] and stack.items == [1]

    def test_files(self, tmp_path):
        (tmp_path / "n").write_text("4")
        assert twice(tmp_path / "n") == 8
"""
STACK = """
class EmptyError(IndexError): pass
class Stack:
    def __init__(self): self.items = []
    def push(self, item): self.items.append(item)
    def pop(self):
        if not self.items: raise EmptyError("nothing is in it")
        return self.items.pop()
    def __len__(self): return len(self.items)
"""
OVER_PYTEST = f"""
def twice(n):
    if isinstance(n, str): raise ValueError("no number")
    return 2 * (n if isinstance(n, int) else int(n.read_text()))
{STACK}"""


@pytest.fixture(scope="module")
def with_pytest() -> Iterator[CodeVerifier]:
    local = LocalSandbox(ProgramLimits(memory_mb=512), preload=("pytest",))
    yield CodeVerifier(local.execute, seconds=30.0)
    local.close()


PLANTS = """
import os, tempfile
here = os.getcwd()
for place in (here, os.path.dirname(here), tempfile.gettempdir(), os.environ.get("HOME", "/"), "/", "/tmp"):
    for name in ("conftest.py", "pytest.ini", "pytest.py", "_pytest/__init__.py", "tests.py", "late.py"):
        try:
            os.makedirs(os.path.dirname(os.path.join(place, name)), exist_ok=True)
            open(os.path.join(place, name), "w").write("import os; os._exit(0)")
        except OSError:
            pass
"""


@pytest.mark.slow
@pytest.mark.usefixtures("sandbox")
def test_pytest_reads_no_file_of_the_answers(with_pytest: CodeVerifier, tmp_path: Path) -> None:
    (task,) = of_tasks(tmp_path / "rows.jsonl", [{"question": "?", "test": PYTEST}])
    wrong = OVER_PYTEST.replace("2 * (", "6 or (")
    verdicts = with_pytest.verify([episode(task, PLANTS + code) for code in (OVER_PYTEST, wrong)])
    assert [isinstance(one, Verdict) and one.correct for one in verdicts] == [True, False], verdicts


@pytest.mark.usefixtures("sandbox")  # skips where there is no isolation
def test_tests_for_pytest_are_run_by_pytest(with_pytest: CodeVerifier, tmp_path: Path) -> None:
    (task,) = of_tasks(tmp_path / "rows.jsonl", [{"question": "?", "test": PYTEST, "solution": OVER_PYTEST}])
    assert task_faults(with_pytest, [task], lambda *_: None) == {}
    wrong = {
        "test_twice[5-10]": OVER_PYTEST.replace("2 * (", "6 or ("),
        "test_errors": OVER_PYTEST.replace("no number", "?"),
        "test_errors ": OVER_PYTEST.replace("raise EmptyError", "raise IndexError"),
        "TestStack::test_push": OVER_PYTEST.replace("append(item)", "append(1)"),
    }
    verdicts = with_pytest.verify([episode(task, code) for code in wrong.values()])
    for name, verdict in zip(wrong, verdicts, strict=True):
        assert isinstance(verdict, Verdict), verdict
        assert not verdict.correct
        assert verdict.detail.startswith(f"{name.strip()}: "), verdict


def test_without_pytest_the_row_is_at_fault_and_the_reason_names_it(verifier: CodeVerifier, tmp_path: Path) -> None:
    (task,) = of_tasks(tmp_path / "rows.jsonl", [{"question": "?", "test": PYTEST, "solution": OVER_PYTEST}])
    faults = task_faults(verifier, [task], lambda *_: None)
    assert "No module named 'pytest'" in faults[task.id]

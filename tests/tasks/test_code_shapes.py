"""Rows of programming sets, as their files have them: what is made of each field, and why a row is skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sod.records import SodError
from sod.tasks.files import load_tasks
from sod.tasks.loaded import Loaded

CASES = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]
CALLS = [{"input": "3", "output": "6", "testtype": "functional"}]
TESTS = "from solution import twice\n\ndef test_twice():\n    assert twice(3) == 6\n"
CHECK = "def check(candidate):\n    assert candidate(3) == 6\n"
STARTER = "class Solution:\n    def twice(self, n):\n        "
INFO = {"language": "python", "test_cases": [{"type": "stdin_stdout", "input": "1 2", "output": "3"}]}

# The shape, a row, what its prompt has, the names in its truth, and the fields that nobody used.
ROWS: dict[str, tuple[str, dict[str, Any], tuple[str, ...], set[str], list[str]]] = {
    "MBPP": (
        "MBPP",
        {
            "task_id": 7,
            "text": "Double a number.",
            "code": "def twice(n):\n  return 2*n",
            "test_list": ["assert twice(3) == 6"],
            "test_setup_code": "",
            "challenge_test_list": ["assert twice(0) == 0"],
        },
        ("Double a number.", "assert twice(3) == 6", "```python"),
        {"test_list"},
        ["challenge_test_list"],
    ),
    "MBPP, sanitized": (
        "MBPP",
        {"prompt": "Double.", "code": "x", "test_imports": ["import math"], "test_list": ["assert twice(3) == 6"]},
        ("Double.",),
        {"test_list", "test_imports"},
        [],
    ),
    "MBPP+": (
        "MBPP",
        {"prompt": "Double.", "code": "x", "test_imports": [], "test_list": ["assert twice(3) == 6"], "test": CHECK},
        ("assert twice(3) == 6",),
        {"test"},
        [],
    ),
    "HumanEval-X": (
        "prompt and tests",
        {
            "task_id": "Python/0",
            "prompt": 'def twice(n):\n    """Double."""\n',
            "declaration": "def twice(n):\n",
            "test": "def check(twice):\n    assert twice(3) == 6\n\ncheck(twice)",
            "canonical_solution": "    return 2*n",
        },
        ('def twice(n):\n    """Double."""', "```python"),
        {"test", "prompt", "entry_point"},
        ["declaration"],
    ),
    "DeepSeek-Coder, MBPP": (
        "prompt and tests",
        {"task_id": 7, "prompt": "Double a number.", "code": "x", "test": ["assert twice(3) == 6"]},
        ("Double a number.", "must pass these tests", "assert twice(3) == 6"),
        {"test"},
        [],
    ),
    "DeepSeek-Coder, LeetCode": (
        "prompt and tests",
        {
            "prompt": STARTER + "pass",
            "prompt_sft": "Double a number. Complete this code.",
            "test": "assert Solution().twice(3) == 6",
        },
        ("Double a number. Complete this code.", "```python block"),
        {"test"},
        [],
    ),
    "LeetCodeDataset, first version": (
        "LeetCodeDataset",
        {
            "prompt": "import math",
            "entry_point": "Solution().twice",
            "test": CHECK,
            "completion": "x",
            "meta": {"query": "Double a number.\n```python\nclass Solution:\n```", "question_id": 7},
        },
        ("Double a number.",),
        {"prompt", "entry_point", "test"},
        ["meta.question_id"],
    ),
    "NeMo-Gym, unit tests": (
        "nemo-gym",
        {
            "responses_create_params": {"input": "Double."},
            "verifier_metadata": {"unit_tests": {"inputs": ["1\n"], "outputs": ["2\n"], "fn_name": None}},
        },
        ("Double.",),
        {"unit_tests"},
        [],
    ),
    "NeMo-Gym, BigCodeBench": (
        "nemo-gym",
        {
            "responses_create_params": {"input": "Double."},
            "verifier_metadata": {"test": CHECK, "entry_point": "twice", "code_prompt": "import os", "split": "hard"},
        },
        ("Double.",),
        {"test", "entry_point", "code_prompt"},
        ["verifier_metadata.split"],
    ),
    "HumanEval+": (
        "HumanEval",
        {
            "prompt": 'def twice(n):\n    """Double."""\n',
            "entry_point": "twice",
            "test": CHECK,
            "canonical_solution": "    return 2*n",
        },
        ('def twice(n):\n    """Double."""', "```python"),
        {"prompt", "entry_point", "test"},
        [],
    ),
    "EvalPlus's own": (
        "HumanEval",
        {
            "prompt": '"""Double."""',
            "entry_point": "twice",
            "assertion": "assert twice(3) == 6",
            "canonical_solution": "x",
            "base_input": [[3]],
            "plus_input": [[4]],
            "contract": "",
            "atol": 0,
        },
        ("Double.",),
        {"prompt", "entry_point", "assertion"},
        ["atol", "base_input", "plus_input"],
    ),
    "APPS": (
        "APPS",
        {
            "question": "Add.",
            "solutions": '["print(3)"]',
            "input_output": json.dumps({"inputs": ["1 2\n"], "outputs": ["3\n"]}),
            "difficulty": "interview",
            "starter_code": "",
        },
        ("Add.", "standard input"),
        {"inputs", "outputs"},
        ["difficulty"],
    ),
    "TACO, function": (
        "APPS",
        {
            "question": "Double.",
            "starter_code": "def twice(n):\n\t",
            "input_output": json.dumps({"fn_name": "twice", "inputs": [[3]], "outputs": [[6]]}),
        },
        ("Begin with this:\n\n```python\ndef twice(n):\n```",),
        {"fn_name", "inputs", "outputs"},
        [],
    ),
    "CodeContests": (
        "CodeContests",
        {
            "name": "1_A",
            "description": "Add.",
            "public_tests": {"input": ["1 2"], "output": ["3"]},
            "private_tests": {"input": [], "output": []},
            "generated_tests": {"input": ["2 2"], "output": ["4"]},
            "solutions": {"language": [3], "solution": ["print(3)"]},
        },
        ("Add.", "standard input"),
        {"public_tests", "generated_tests"},
        ["name"],
    ),
    "DeepCoder": (
        "DeepCoder",
        {"problem": "Add.", "tests": json.dumps(CASES), "solutions": ["print(3)"], "starter_code": ""},
        ("Add.", "standard input"),
        {"tests"},
        [],
    ),
    "DeepCoder, LiveCodeBench": (
        "DeepCoder",
        {
            "problem": "Double.",
            "tests": json.dumps([{**CALLS[0], "metadata": {"func_name": "twice"}}]),
            "starter_code": STARTER,
            "metadata": {"func_name": "twice"},
        },
        ("class Solution:\n    def twice(self, n):",),
        {"tests", "starter_code", "metadata"},
        [],
    ),
    "DeepCoder, TACO": (
        "DeepCoder",
        {"problem": "Double.", "tests": json.dumps({"fn_name": "twice", "inputs": [[3]], "outputs": [[6]]})},
        ("a function `twice`",),
        {"tests"},
        [],
    ),
    "SYNTHETIC-1": (
        "DeepCoder",
        {"prompt": "Add.", "gold_standard_solution": "```python\nx\n```", "verification_info": INFO, "task_type": "c"},
        ("Add.", "standard input"),
        {"verification_info"},
        ["task_type"],
    ),
    "SYNTHETIC-1, as Python writes it": (
        "DeepCoder",
        {"prompt": "Add.", "verification_info": str(INFO)},
        ("Add.",),
        {"verification_info"},
        [],
    ),
    "KodCode": (
        "KodCode",
        {
            "style": "instruct",
            "question": "Double.",
            "solution": "def twice(n): return 2*n",
            "test": TESTS,
            "test_info": [{"function_name": "twice", "function_declaration": "def twice(n):"}],
        },
        ("Double.", "def twice(n):"),
        {"test", "test_info"},
        ["style"],
    ),
    "AceCode": (
        "AceCode",
        {
            "question": "Double.",
            "test_cases": ["assert twice(3) == 6"],
            "inferences": [{"completion": "bad", "pass_rate": 0.5}, {"completion": "good", "pass_rate": 1.0}],
            "context_messages": [[{"role": "user", "content": "Double."}]],
        },
        ("Double.", "```python"),
        {"test_cases"},
        ["context_messages"],
    ),
    "BigCodeBench": (
        "BigCodeBench",
        {
            "task_id": "B/0",
            "complete_prompt": 'def task_func(n):\n    """Double."""\n',
            "instruct_prompt": "Double. Begin with: def task_func(n):",
            "code_prompt": "def task_func(n):\n",
            "test": "import unittest",
            "entry_point": "task_func",
            "canonical_solution": "    return 2*n",
            "libs": "['math']",
        },
        ("Double. Begin with: def task_func(n):", "```python"),
        {"complete_prompt", "code_prompt", "test", "entry_point"},
        ["libs"],
    ),
    "LeetCodeDataset": (
        "LeetCodeDataset",
        {
            "query": "Double.\n```python\nclass Solution:\n```",
            "prompt": "import math\n",
            "entry_point": "Solution().twice",
            "test": CHECK,
            "completion": "class Solution: pass",
            "input_output": [{"input": "n = 3", "output": "6"}],
        },
        ("Double.",),
        {"prompt", "entry_point", "test"},
        ["input_output"],
    ),
    "LiveCodeBench": (
        "LiveCodeBench",
        {
            "question_title": "Twice",
            "question_content": "Double.",
            "starter_code": STARTER,
            "public_test_cases": json.dumps(CALLS),
            "private_test_cases": "eJyrVgoAAAAA",
            "metadata": json.dumps({"func_name": "twice"}),
        },
        ("Double.", "class Solution:"),
        {"public_test_cases", "private_test_cases", "metadata", "starter_code"},
        ["question_title"],
    ),
    "a prompt of messages": (
        "DeepCoder",
        {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "Add."}], "tests": CASES},
        ("s",),
        {"tests"},
        [],
    ),
}


def loaded(path: Path, *rows: dict[str, Any]) -> Loaded[Any]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_tasks(str(path))


@pytest.mark.parametrize("name", ROWS)
def test_every_field_is_used_or_named(tmp_path: Path, name: str) -> None:
    shape, row, prompt, truth, unused = ROWS[name]
    read = loaded(tmp_path / "rows.jsonl", row)
    (task,) = read.items
    assert dict(read.shapes) == {shape: 1}
    assert sorted(read.unused) == unused
    assert set(json.loads(task.ground_truth)) == truth
    assert task.verifier == "code"
    for part in prompt:
        assert part in task.prompt[0].content


def test_references_go_with_the_task(tmp_path: Path) -> None:
    def extra(name: str) -> dict[str, Any]:
        (task,) = loaded(tmp_path / "rows.jsonl", ROWS[name][1]).items
        return dict(task.extra)

    assert extra("AceCode") == {"solutions": ["good"]}
    assert extra("BigCodeBench") == {"canonical_solution": "    return 2*n"}
    assert extra("SYNTHETIC-1") == {"gold_standard_solution": "```python\nx\n```"}
    assert extra("LeetCodeDataset") == {"completion": "class Solution: pass"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "Add.", "input_output": ""}, "no tests in input_output"),
        ({"prompt": "class X {", "language": "java", "test": "assert(f(1) == (2));\n}"}, "its tests are for java"),
        ({"question": "Add.", "input_output": '{"inputs": [], "outputs": []}'}, "no tests in input_output"),
        ({"question": "Add.", "input_output": "["}, "input_output is a string but not JSON"),
        ({"text": "Double.", "test_list": []}, "no tests in test_list"),
        ({"problem": "Add.", "tests": "[]"}, "no tests in tests"),
        ({"problem": " ", "tests": CASES}, "no problem"),
        ({"question_content": "x", "public_test_cases": ""}, "no tests in public_test_cases or private_test_cases"),
        ({"description": "x", "public_tests": {"input": [], "output": []}}, "no tests in public_tests or"),
        ({"prompt": "x", "verification_info": {**INFO, "language": "cpp"}}, "its tests are for cpp; the code verifier"),
        ({"question": "\ud800", "test_cases": ["assert f(1)"]}, "question is not valid Unicode"),
    ],
)
def test_a_row_without_tests_or_a_problem_is_skipped_by_number(tmp_path: Path, row: Any, reason: str) -> None:
    read = loaded(tmp_path / "rows.jsonl", ROWS["DeepCoder"][1], row)
    assert [skip.row for skip in read.skipped] == [1]
    assert reason in read.skipped[0].reason
    with pytest.raises(SodError, match="no usable row, 1 skipped: row 0: "):
        loaded(tmp_path / "rows.jsonl", row)


def test_rows_of_verl_stay_what_they_are(tmp_path: Path) -> None:
    row = {"prompt": "Add.", "reward_model": {"ground_truth": json.dumps(CASES)}, "test_list": ["assert f(1)"]}
    read = loaded(tmp_path / "rows.jsonl", row)
    assert dict(read.shapes) == {"verl": 1}
    assert read.items[0].prompt[0].content == "Add."

"""Tests of programs as the field's data sets write them: a right program is right, a wrong one wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sod.records import Verdict
from sod.rewards.code import CodeVerifier
from sod.rewards.code_suites import read_suite
from sod.tools.sandbox.local import LocalSandbox
from support import answered

ADD = "a, b = map(int, input().split())\nprint(a + b)"
ADD_WRONG = "print(3)"
DOUBLE, DOUBLE_WRONG = "def f(x): return 2 * x", "def f(x): return x + 3"
SPELL, SPELL_WRONG = "def f(x): return x[::-1]", "def f(x): return x"
LINES = "n = int(input())\nfor _ in range(n): print(2 * int(input()))"
LINES_WRONG = "print(2)\nprint(4)"

STDIN = {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}
ROWS = [{"input": "1 2", "output": "3", "testtype": "stdin"}, {"input": "3 4", "output": "7", "testtype": "stdin"}]
CALLS = {"fn_name": "f", "inputs": [[3], [5]], "outputs": [[6], [10]]}
UNITTEST = (
    "import unittest\nclass TestCases(unittest.TestCase):\n    def setUp(self):\n        self.three = 3\n"
    "    def test_one(self):\n        self.assertEqual(f(self.three), 6)\n    def test_two(self):\n"
    "        for n in range(3):\n            with self.subTest(n=n):\n                self.assertEqual(f(n + 4), 2 * n + 8)\n"  # noqa: E501
)
PYTEST = "from solution import f\n\ndef test_one():\n    assert f(3) == 6\n\ndef test_two():\n    assert f(5) == 10\n"

# The name, what the row has (`ground_truth` among it), a right program, a wrong one.
FORMATS: dict[str, tuple[dict[str, Any], str, str]] = {
    "APPS stdin": ({"input_output": json.dumps(STDIN)}, ADD, ADD_WRONG),
    "APPS function": ({"input_output": json.dumps(CALLS)}, DOUBLE, DOUBLE_WRONG),
    "APPS method": ({"input_output": CALLS}, "class Solution:\n  def f(self, x): return 2 * x", DOUBLE_WRONG),
    "APPS bare values": ({**CALLS, "outputs": [6, 10]}, DOUBLE, DOUBLE_WRONG),
    "APPS lists": (
        {**CALLS, "inputs": [[[1, 2]], [[3]]], "outputs": [[[2, 1]], [[3]]]},
        "def f(x): return tuple(x[::-1])",
        "def f(x): return sorted(x)",
    ),
    "APPS booleans": ({**CALLS, "outputs": [[True], [True]]}, "def f(x): return x > 0", "def f(x): return 1"),
    "APPS numbers": ({**CALLS, "outputs": [[1], [1]]}, "def f(x): return 1.0", "def f(x): return x > 0"),
    "Eurus, ground_truth": ({"ground_truth": json.dumps(CALLS)}, DOUBLE, DOUBLE_WRONG),
    "Eurus, text in text": ({"ground_truth": json.dumps(json.dumps(STDIN))}, ADD, ADD_WRONG),
    "columns as JSON": (
        {"inputs": json.dumps(STDIN["inputs"]), "outputs": json.dumps(STDIN["outputs"])},
        ADD,
        ADD_WRONG,
    ),
    "columns as JSON, function": (
        {"fn_name": "f", "inputs": json.dumps([[3], [5]]), "outputs": json.dumps([[6], [10]])},
        DOUBLE,
        DOUBLE_WRONG,
    ),
    "plain text out": ({"fn_name": "f", "inputs": [["abc"], ["12"]], "outputs": ["cba", "21"]}, SPELL, SPELL_WRONG),
    "wrapped text out": (
        {"fn_name": "f", "inputs": [["abc"], ["12"]], "outputs": [["cba"], ["21"]]},
        SPELL,
        SPELL_WRONG,
    ),
    "text that is a number": ({"fn_name": "f", "inputs": [["12"]], "outputs": ["21"]}, SPELL, SPELL_WRONG),
    "a number as text": ({"fn_name": "f", "inputs": [[3], [5]], "outputs": ["6", "10"]}, DOUBLE, DOUBLE_WRONG),
    "quoted text out": (
        {"fn_name": "f", "inputs": ['"abc"', '"12"'], "outputs": ['"cba"', '"21"']},
        SPELL,
        "def f(x): return int(x[::-1]) if x.isdigit() else x[::-1]",
    ),
    "plain text in and out": ({"fn_name": "f", "inputs": ["abc", "12"], "outputs": ["cba", "21"]}, SPELL, SPELL_WRONG),
    "Python's values": (
        {"fn_name": "f", "inputs": ["'ab'\n(1, None)"], "outputs": ["['ab', (1, None), True]"]},
        "def f(x, y): return [x, y, True]",
        "def f(x, y): return [x, y, 1]",
    ),
    "one bare argument": ({"fn_name": "f", "inputs": [3, 5], "outputs": [6, 10]}, DOUBLE, DOUBLE_WRONG),
    "lists of lines": ({"inputs": [["2", "3", "4"]], "outputs": [["6", "8"]]}, LINES, LINES_WRONG),
    "lines with their ends": ({"inputs": [["2\n", "3\n", "4\n"]], "outputs": [["6\n", "8\n"]]}, LINES, LINES_WRONG),
    "lists of numbers": ({"inputs": [[[1, 2]]], "outputs": [[3]]}, ADD, "print(4)"),
    "numbers": ({"inputs": [3, 5], "outputs": [6, 10]}, "print(2 * int(input()))", "print(6)"),
    "other line ends": ({"inputs": ["2\r\n3\r\n4\r\n"], "outputs": ["6\r\n8 \r\n\r\n"]}, LINES, LINES_WRONG),
    "LiveCodeBench stdin": ({"public_test_cases": json.dumps(ROWS), "metadata": "{}"}, ADD, ADD_WRONG),
    "LiveCodeBench function": (
        {
            "public_test_cases": json.dumps([{"input": "[1, 2]\n2", "output": "[2, 4]", "testtype": "functional"}]),
            "metadata": json.dumps({"func_name": "f"}),
        },
        "def f(x, n): return [n * v for v in x]",
        "def f(x, n): return [[n * v for v in x]]",
    ),
    "DeepCoder": (
        {"ground_truth": json.dumps([{"input": "3", "output": "6", "metadata": {"func_name": "f"}}])},
        DOUBLE,
        "def f(x): return '6'",
    ),
    "DeepCoder stdin": ({"tests": json.dumps(ROWS)}, ADD, ADD_WRONG),
    "SYNTHETIC-1": ({"verification_info": json.dumps({"language": "python", "test_cases": ROWS})}, ADD, ADD_WRONG),
    "CodeContests": (
        {"public_tests": {"input": ["1 2\n"], "output": ["3\n"]}, "private_tests": {"input": ["3 4"], "output": ["7"]}},
        ADD,
        ADD_WRONG,
    ),
    "MBPP": ({"test_list": ["assert f(3) == 6", "assert set(f(n) for n in [5]) == {10}"]}, DOUBLE, DOUBLE_WRONG),
    "AceCode": ({"test_cases": json.dumps(["assert f(3) == 6", "assert f(5) == 10"])}, DOUBLE, DOUBLE_WRONG),
    "assertions": ({"ground_truth": "assert f(3) == 6\nassert f(5) == 10\n"}, DOUBLE, DOUBLE_WRONG),
    "KodCode": ({"test": PYTEST, "test_info": [{"function_name": "f"}]}, DOUBLE, DOUBLE_WRONG),
    "BigCodeBench": ({"code_prompt": "def f(x):\n", "entry_point": "f", "test": UNITTEST}, DOUBLE, DOUBLE_WRONG),
}


@pytest.fixture(scope="module")
def verifier(sandbox: LocalSandbox) -> CodeVerifier:
    return CodeVerifier(sandbox.execute, seconds=10.0)


def test_right_programs_are_right_and_wrong_ones_wrong_in_every_format(verifier: CodeVerifier) -> None:
    answers = []
    for row, right, wrong in FORMATS.values():
        truth, extra = row.get("ground_truth", ""), {key: value for key, value in row.items() if key != "ground_truth"}
        answers += [answered(f"```python\n{code}\n```", truth, extra) for code in (right, wrong)]
    verdicts = verifier.verify(answers)
    judged = {name: verdicts[2 * at : 2 * at + 2] for at, name in enumerate(FORMATS)}
    for name, pair in judged.items():
        assert [isinstance(verdict, Verdict) and verdict.correct for verdict in pair] == [True, False], (name, pair)
        assert isinstance(pair[1], Verdict), (name, pair)


def test_readings_are_not_mixed(verifier: CodeVerifier) -> None:
    extra = {"fn_name": "f", "inputs": [[1], [2]], "outputs": [[1], [2]]}
    codes = ("def f(x): return x", "def f(x): return [x]", "def f(x): return x if x == 1 else [x]")
    verdicts = verifier.verify([answered(f"```python\n{code}\n```", "", extra) for code in codes])
    assert [isinstance(verdict, Verdict) and verdict.correct for verdict in verdicts] == [True, True, False]
    longer = {**extra, "outputs": [[1], [2, 2]]}  # lists of several elements are no wrapped values
    assert read_suite(answered("", "", longer).task).other_readings == ()  # type: ignore[union-attr]
    lined = {"fn_name": "f", "inputs": ["1"], "outputs": ["[5]"]}  # LiveCodeBench never wraps
    assert read_suite(answered("", "", lined).task).other_readings == ()  # type: ignore[union-attr]

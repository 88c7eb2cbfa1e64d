"""The tests of a programming task, in the schemas of the field.

They are looked up in `extra`, and in `ground_truth` where that is a JSON object, a JSON list or Python tests.

Tests in Python, which call the function themselves (`code_python_tests`):

- HumanEval, BigCodeBench, KodCode, LeetCodeDataset, MBPP+: `test` with a `check(candidate)`, a `unittest.TestCase`,
  what pytest runs or plain assertions; the name of the function in `entry_point`, else the one that the tests import or
  call; what stands before the answer in `prompt`, `complete_prompt` or `code_prompt`, if there is any;
- MBPP, AceCode: a list of assertions in `test_list`, `test_cases` or `tests`, or as the truth itself.

Tests with inputs and outputs (`CaseSuite`; `code_cases` says how these are written):

- APPS, TACO, Eurus, SkyRL: `input_output` (`inputs`, `outputs`, perhaps `fn_name`), or these three directly;
- LiveCodeBench, DeepCoder, PrimeIntellect: lists of rows with `input` and `output` in `public_test_cases`,
  `private_test_cases`, `test_cases` or `tests`, or as the truth itself; the name of a function in `fn_name`,
  `func_name`, or `func_name` of a `metadata`, else in the `starter_code`;
- CodeContests: `public_tests`, `private_tests`, `generated_tests` with the lists `input` and `output`.

Every column may be packed (`code_columns`). The pickles of LiveCodeBench's private tests are unpacked before that, in
the sandbox (`code_unpacking`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sod.records import SodError, Task
from sod.rewards.code_cases import CaseSuite, case_suite
from sod.rewards.code_columns import cases_of, object_of, pickled, value_of
from sod.rewards.code_python_tests import (
    ASSERTIONS,
    FUNCTION,
    SOURCES,
    CheckSuite,
    assertions,
    check_suite,
    is_python,
)

CONTESTS = ("public_tests", "private_tests", "generated_tests")
ROWS = ("public_test_cases", "private_test_cases", *CONTESTS)
CASES = (*ROWS, "test_cases", "tests", "unit_tests")  # the latter three may be assertions instead
WRAPPERS = ("input_output", "verification_info")
CALLS = ("functional", "function_call", "call_based")  # kinds of a test that calls a function

Suite = CaseSuite | CheckSuite


def read_suite(task: Task) -> Suite:
    """The tests of the task. Raises SodError where there are none or they cannot be read."""
    fields = suite_fields(task)
    in_python = check_suite(fields)
    if in_python is not None:
        return in_python
    rows: list[Mapping[str, Any]] = []
    if "inputs" in fields and "outputs" in fields:
        pairs = _paired(fields["inputs"], fields["outputs"])
    else:
        named = [name for name in CASES if fields.get(name)]
        rows = [row for name in named for row in _rows(fields[name], name)]
        pairs = [(_member(row, "input"), _member(row, "output")) for row in rows]
    if not pairs:
        raise SodError(f"code: no tests among {', '.join(sorted(fields)) or 'nothing'}")
    suite = case_suite(pairs, _function(fields, rows))
    exact = any("testtype" in row for row in rows) or any(fields.get(name) for name in ROWS if name not in CONTESTS)
    return replace(suite, close=suite.fn_name is None and not exact)


def check_readable(task: Task) -> None:
    """Raises SodError where the tests cannot be read; pickles, which only the sandbox unpacks, are left to it."""
    packed = pickled_columns(task)
    if not packed:
        read_suite(task)
        return
    others = replace(task, extra={**task.extra, **dict.fromkeys(packed)})
    if any(suite_fields(others).get(name) for name in CASES):
        read_suite(others)


def pickled_columns(task: Task) -> dict[str, str]:
    """The columns of test cases that are pickles, by name. Raises SodError where a row cannot be read."""
    fields = suite_fields(task)
    return {name: fields[name] for name in CASES if pickled(fields.get(name))}


def holds_tests(task: Task) -> bool:
    """Whether the ground truth is tests of a program, as no answer of another kind is written."""
    try:
        fields = _truth_fields(task)
    except SodError:
        return False
    if any(fields.get(name) for name in (*ROWS, "inputs", *WRAPPERS)):
        return True
    if any(isinstance(fields.get(name), str) and is_python(fields[name]) for name in SOURCES):
        return True
    if any(is_python("\n".join(assertions(fields.get(name)))) for name in ASSERTIONS):
        return True
    return any(_are_cases(fields.get(name)) for name in CASES)


def _are_cases(value: Any) -> bool:
    try:
        rows = value_of(value, "tests")
        if isinstance(rows, list):
            rows = value_of(rows[0], "a test") if rows else None
    except SodError:
        return False
    return isinstance(rows, Mapping) and any(name in rows for name in ("input", "inputs"))


def suite_fields(task: Task) -> dict[str, Any]:
    """What a row says about its tests, by name. Raises SodError where that cannot be read."""
    fields = {**_truth_fields(task), **task.extra}
    for wrapper in WRAPPERS:
        value = value_of(fields[wrapper], wrapper) if fields.get(wrapper) else None
        if isinstance(value, Mapping):
            fields = {**fields, **value}
        elif isinstance(value, list):  # LeetCodeDataset's examples, beside its tests
            fields = {"test_cases": value, **fields}
        elif value is not None:
            raise SodError(f"code: {wrapper} must be an object, not {type(value).__name__}")
    return fields


def _truth_fields(task: Task) -> dict[str, Any]:
    """The tests in the truth, by name; empty where it is something else."""
    truth = task.ground_truth.strip()
    if task.truths:  # a list of texts, which the loader took for several answers
        texts = [truth, *task.truths]
        return {"tests": texts} if all("assert" in text or text.lstrip().startswith("{") for text in texts) else {}
    if truth.startswith("{"):
        return object_of(truth, "ground_truth")
    if truth[:1] in ("[", '"'):
        return _listed(truth)
    return {"test": truth} if "assert" in truth or is_python(truth) else {}


def _listed(truth: str) -> dict[str, Any]:
    """The tests in a truth that is JSON, but no object; empty where it is something else."""
    try:
        found = value_of(truth, "ground_truth")
    except SodError:
        return {}
    if isinstance(found, Mapping):
        return dict(found)
    tests = isinstance(found, list) and found and all(isinstance(item, Mapping | str) for item in found)
    return {"tests": found} if tests else {}


def _function(fields: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The function that the tests call; None for whole programs.

    Raises SodError where the tests call one and neither they nor the starter code name it.
    """
    named = next(filter(None, map(_named, (fields, *rows))), None)
    if named is not None:
        return named
    kinds = {str(row.get(name)) for row in rows for name in ("testtype", "type") if row.get(name)}
    started = _starter_function(str(fields.get("starter_code") or ""))
    if kinds & set(CALLS) and started is None:
        raise SodError("code: the tests call a function that nothing names; set fn_name, or metadata.func_name")
    return started if kinds & set(CALLS) else None


def _named(row: Mapping[str, Any]) -> str | None:
    """The function that a row names, itself or in its metadata."""
    metadata = row.get("metadata")
    found = [row, object_of(metadata, "metadata")] if metadata else [row]
    names = [fields.get(name) for fields in found for name in FUNCTION]
    return next((str(name) for name in names if name), None)


def _starter_function(code: str) -> str | None:
    """The last function that a starter code begins."""
    try:
        tree = ast.parse(f"{code.rstrip()}\n        pass\n")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        found = re.findall(r"^\s*def\s+(\w+)", code, re.MULTILINE)
        return found[-1] if found else None
    functions = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return next((name for name in reversed(functions) if not name.startswith("__")), None)


def _rows(value: Any, name: str) -> list[Mapping[str, Any]]:
    """The rows of a column of test cases, with `input` and `output` each."""
    rows = cases_of(value, name)
    if isinstance(rows, Mapping):
        columns = [rows.get(column, rows.get(f"{column}s")) for column in ("input", "output")]
        shared = {key: rows[key] for key in (*FUNCTION, "type", "testtype") if rows.get(key)}
        return [{**shared, "input": given, "output": expected} for given, expected in _paired(*columns)]
    if not isinstance(rows, list):
        raise SodError(f"code: {name} must be a list, not {type(rows).__name__}")
    return [value_of(row, f"a test of {name}") for row in rows]


def _paired(inputs: Any, outputs: Any) -> list[tuple[Any, Any]]:
    inputs, outputs = value_of(inputs, "inputs"), value_of(outputs, "outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise SodError("code: inputs and outputs must be lists of equal length")
    return list(zip(inputs, outputs, strict=True))


def _member(row: Any, name: str) -> Any:
    if not isinstance(row, Mapping) or name not in row:
        raise SodError(f"code: a test case without {name}")
    return row[name]

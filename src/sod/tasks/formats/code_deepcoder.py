"""DeepCoder, PrimeIntellect and rLLM: a problem, and tests as rows of `input` and `output` or as two lists of them.

They stand in `tests`, `test_cases` or `unit_tests`, mostly as JSON text, or in `verification_info`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sod.records import Task
from sod.tasks.formats.base import BadRowError, Fields, Shape
from sod.tasks.formats.code_base import asked, how, programming_task, used
from sod.tasks.tables import json_or_none

_CASES = ("tests", "test_cases", "unit_tests")
_INFO = "verification_info"
_STATEMENTS = ("problem", "question", "prompt", "description", "question_content")


def _matches(row: Mapping[str, Any]) -> bool:
    if not any(name in row for name in _STATEMENTS):
        return False
    return any(_looks_packed(row.get(name)) for name in _CASES) or "test_cases" in str(row.get(_INFO))


def _looks_packed(value: Any) -> bool:
    """Whether a column holds cases: looked at from outside, as it may be large."""
    if isinstance(value, str):
        return value.lstrip()[:1] in ("[", "{")
    return isinstance(value, Mapping) or (isinstance(value, list) and all(isinstance(row, Mapping) for row in value))


def _read(fields: Fields, name: str) -> Task:
    tests = used(fields, _CASES) or used(fields, (_INFO,))
    if not any(_holds(value) for value in tests.values()):
        raise BadRowError(f"no tests in {' or '.join(column for column in (*_CASES, _INFO) if column in fields.row)}")
    cases = _inner(next(iter(tests.values())))
    prompt = asked(fields, _STATEMENTS, how(fields, cases))
    tests |= used(fields, ("metadata", "starter_code", "fn_name"))
    references = ("solutions", "solution", "gold_standard_solution")
    return programming_task(fields, name, "deepcoder", prompt, tests, references)


def _inner(tests: Any) -> Any:
    """The cases of a `verification_info`. Raises BadRowError for those of another language."""
    if not isinstance(tests, Mapping) or "test_cases" not in tests:
        return tests
    language = tests.get("language")
    if isinstance(language, str) and language.lower() not in ("", "python", "python3"):
        raise BadRowError(f"its tests are for {language}; the code verifier runs Python")
    return tests["test_cases"]


def _holds(value: Any) -> bool:
    found = json_or_none(value) if isinstance(value, str) else value
    return bool(found) or (isinstance(value, str) and found is None)  # what is no JSON is read where tests are


DEEPCODER = Shape("DeepCoder", _matches, _read)

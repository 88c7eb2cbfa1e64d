"""CodeContests: `description`, and tests in three columns of inputs and outputs."""

from __future__ import annotations

from sod.records import Task
from sod.tasks.formats.base import BadRowError, Fields, Shape
from sod.tasks.formats.code_base import asked, how, programming_task, used

_CASES = ("public_tests", "private_tests", "generated_tests")


def _read(fields: Fields, name: str) -> Task:
    tests = {column: value for column, value in used(fields, _CASES).items() if _holds(value)}
    if not tests:
        raise BadRowError(f"no tests in {' or '.join(_CASES)}")
    prompt = asked(fields, ("description", "problem", "question"), how(fields, tests))
    return programming_task(fields, name, "code_contests", prompt, tests, ("solutions",))


def _holds(value: object) -> bool:
    return bool(value.get("input")) if isinstance(value, dict) else bool(value)


CODE_CONTESTS = Shape("CodeContests", lambda row: any(column in row for column in _CASES), _read)

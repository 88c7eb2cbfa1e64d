"""AceCode: `question` and a list of assertions in `test_cases` or `tests`.

Of its `inferences`, those that pass all tests are reference solutions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sod.records import Task
from sod.tasks.formats.base import Fields, Shape
from sod.tasks.formats.code_base import IN_A_BLOCK, asked, programming_task, used
from sod.tasks.tables import json_or_none

_CASES = ("test_cases", "tests")
_STATEMENTS = ("question", "problem", "prompt", "instruction")


def _matches(row: Mapping[str, Any]) -> bool:
    return any(_asserts(row.get(name)) for name in _CASES) and any(name in row for name in _STATEMENTS)


def _asserts(value: Any) -> bool:
    lines = json_or_none(value) if isinstance(value, str) else value
    return isinstance(lines, list) and bool(lines) and all(isinstance(line, str) and "assert" in line for line in lines)


def _read(fields: Fields, name: str) -> Task:
    tests = {column: value for column, value in used(fields, _CASES).items() if _asserts(value)}
    prompt = asked(fields, _STATEMENTS, IN_A_BLOCK)
    task = programming_task(fields, name, "acecode", prompt, tests, ("solution",))
    passing = [one["completion"] for one in fields.use("inferences") or [] if _passes(one)]
    return replace(task, extra={**task.extra, "solutions": passing}) if passing else task


def _passes(inference: Any) -> bool:
    return isinstance(inference, Mapping) and inference.get("pass_rate") == 1 and bool(inference.get("completion"))


ACECODE = Shape("AceCode", _matches, _read)

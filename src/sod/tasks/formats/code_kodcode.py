"""KodCode: `question`, tests for pytest that import the answer from `solution`, and its functions in `test_info`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sod.records import Task
from sod.tasks.formats.base import BadRowError, Fields, Shape, decoded
from sod.tasks.formats.code_base import IN_A_BLOCK, asked, block, programming_task, used

_STATEMENTS = ("question", "prompt", "problem")


def _matches(row: Mapping[str, Any]) -> bool:
    imports = "from solution import" in str(row.get("test")) or "import solution" in str(row.get("test"))
    return "test" in row and ("test_info" in row or imports) and any(name in row for name in _STATEMENTS)


def _read(fields: Fields, name: str) -> Task:
    tests = used(fields, ("test", "test_info"))
    if "test" not in tests:
        raise BadRowError("no tests in test")
    declared = [info.get("function_declaration") for info in _infos(tests.get("test_info"))]
    shown = "\n".join(text.strip() for text in declared if isinstance(text, str) and text.strip())
    declaration = f"Declare it like this:\n\n{block(shown)}" if shown else ""
    prompt = asked(fields, _STATEMENTS, declaration, IN_A_BLOCK)
    return programming_task(fields, name, "kodcode", prompt, tests, ("solution",))


def _infos(value: Any) -> list[Mapping[str, Any]]:
    infos = [value] if isinstance(value, Mapping) else decoded(value, "test_info", list)
    return [info for info in infos if isinstance(info, Mapping)]


KODCODE = Shape("KodCode", _matches, _read)

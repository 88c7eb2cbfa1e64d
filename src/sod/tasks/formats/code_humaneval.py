"""HumanEval, HumanEval+ and EvalPlus's own files: a `prompt` to complete, and a `check` of `entry_point`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sod.records import Task
from sod.tasks.formats.base import BadRowError, Fields, Shape
from sod.tasks.formats.code_base import IN_A_BLOCK, block, in_words, programming_task, said, used


def _matches(row: Mapping[str, Any]) -> bool:
    if row.get("test_list"):
        return False  # MBPP's, whose prompt does not show how to call the function
    return "entry_point" in row and "prompt" in row and ("test" in row or "assertion" in row)


def _read(fields: Fields, name: str) -> Task:
    test = used(fields, ("test",)) or used(fields, ("assertion",))
    if not test:
        raise BadRowError("no tests in test")
    prompt = in_words("Complete this program.", block(said(fields, "prompt")), IN_A_BLOCK)
    tests = {**used(fields, ("prompt", "entry_point")), **test}
    return programming_task(fields, name, "humaneval", prompt, tests, ("canonical_solution",))


HUMANEVAL = Shape("HumanEval", _matches, _read)

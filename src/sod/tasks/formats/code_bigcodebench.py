"""BigCodeBench: `instruct_prompt` or `complete_prompt`, and a `unittest.TestCase` about `entry_point`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sod.records import Task
from sod.tasks.formats.base import BadRowError, Fields, Shape
from sod.tasks.formats.code_base import IN_A_BLOCK, block, in_words, programming_task, said, used


def _matches(row: Mapping[str, Any]) -> bool:
    return "test" in row and ("instruct_prompt" in row or "complete_prompt" in row)


def _read(fields: Fields, name: str) -> Task:
    tests = used(fields, ("complete_prompt", "code_prompt", "entry_point", "test"))
    if "test" not in tests:
        raise BadRowError("no tests in test")
    if fields.row.get("instruct_prompt"):
        prompt = in_words(said(fields, "instruct_prompt"), IN_A_BLOCK)
    else:
        prompt = in_words("Complete this function.", block(said(fields, "complete_prompt")), IN_A_BLOCK)
    return programming_task(fields, name, "bigcodebench", prompt, tests, ("canonical_solution",))


BIGCODEBENCH = Shape("BigCodeBench", _matches, _read)

"""Tools that tasks declare and the run does not have are told, with the keys that make ours look like them."""

from __future__ import annotations

from typing import Any

import pytest

from sod.build.declared_tools import tell_other_tools
from sod.recipe import Recipe
from sod.records import Message, Task


def schema(name: str, *arguments: str) -> dict[str, Any]:
    properties = {argument: {"type": "string"} for argument in arguments}
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


def told(*tools: dict[str, Any], python: Any = None, rows: int = 2) -> list[str]:
    recipe = Recipe.model_validate({"student": {"path": "s"}, "tools": {"python": python or {}}})
    tasks = [Task(f"t{n}", (Message("user", "?"),), "1", tools=tools) for n in range(rows)]
    notes: list[str] = []
    tell_other_tools(tasks, "a.jsonl", recipe, notes.append)
    return notes


def test_a_tool_of_one_argument_can_be_ours() -> None:
    (note,) = told(schema("code_interpreter", "program"))
    assert note.startswith("a.jsonl: rows declare tools that the run does not have: code_interpreter(program) (2 rows)")
    assert "prompts show the run's own (python(code))" in note
    assert note.endswith("tools.python.name=code_interpreter and tools.python.argument=program to call Python so")


@pytest.mark.parametrize("tools", [[], [schema("python", "code")]])
def test_nothing_is_told_of_the_run_s_own(tools: list[dict[str, Any]]) -> None:
    assert told(*tools) == []


def test_renamed_it_is_the_run_s_own() -> None:
    renamed = {"name": "code_interpreter", "argument": "program"}
    assert told(schema("code_interpreter", "program"), python=renamed) == []


def test_other_tools_are_named_alone() -> None:
    (note,) = told(*[schema(f"tool{n}", "a", "b") for n in range(6)])
    assert "tool0(a, b) (2 rows)" in note
    assert "and 2 more" in note
    assert "tools.python.name" not in note
    assert note.endswith("; tools.tool0.call names a function of your own for it")

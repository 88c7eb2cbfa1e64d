"""Tools of a recipe: what a prompt shows is what runs."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from sod.build.data import make_chat
from sod.build.tools import make_tools, tool_schemas
from sod.recipe import Recipe
from sod.tools.python import SCHEMA, python_schema


def recipe(python: dict[str, Any] | None) -> Recipe:
    python = python if python is None else {"workers": 1, "preload": [], **python}
    return Recipe.model_validate(
        {"student": {"path": "s"}, "chat": {"template": "hermes"}, "tools": {"python": python}}
    )


@pytest.mark.parametrize(
    ("python", "schemas"),
    [
        (None, []),
        ({}, [SCHEMA]),
        ({"failure_rate": 0.5}, [SCHEMA]),
        ({"stateful": True}, [python_schema(stateful=True)]),
        ({"name": "code_interpreter", "argument": "program"}, [python_schema(False, "code_interpreter", "program")]),
        ({"stateful": True, "failure_rate": 0.5}, [python_schema(stateful=True)]),
    ],
)
def test_what_is_shown_is_what_runs(python: dict[str, Any] | None, schemas: list[Any], tokenizer: Any) -> None:
    """The schemas of the running tools, in their order, are declared without starting any, and stand in the chat."""
    spec = recipe(python)
    assert tool_schemas(spec) == schemas
    assert make_chat(spec, tokenizer, print).tools == schemas
    with ExitStack() as opened:
        tools = make_tools(spec, opened, None)
        assert [tool.schema for tool in tools.values()] == schemas
        assert list(tools) == [schema["function"]["name"] for schema in schemas]
        assert [tool.keeps_state for tool in tools.values()] == [bool((python or {}).get("stateful"))] * len(schemas)

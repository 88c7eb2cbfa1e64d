"""What a dialect knows of the tools that are shown."""

from __future__ import annotations

from typing import Any

import pytest

from sod.chat.dialects.declared import with_tools
from sod.chat.dialects.glm4 import GLM4_7
from sod.chat.dialects.hermes import HERMES
from sod.chat.dialects.marked import Marked
from sod.chat.dialects.qwen_xml import QWEN_XML
from sod.records import Message, ToolCall

RUN: dict[str, Any] = {
    "name": "run",
    "parameters": {
        "type": "object",
        "properties": {
            "code": {"type": "string"},
            "n": {"type": "integer"},
            "any": {},
            "maybe": {"type": ["string", "null"]},
        },
    },
}


@pytest.mark.parametrize("tool", [RUN, {"type": "function", "function": RUN}])
@pytest.mark.parametrize("dialect", [QWEN_XML, GLM4_7], ids=["qwen-xml", "glm4.7"])
def test_a_parameter_that_is_a_string_is_read_as_text(dialect: Marked, tool: dict[str, Any]) -> None:
    """What a template writes for the text `3` is read as that text; without the schema it cannot be told from 3."""
    text = dialect.write(
        Message("assistant", "", (ToolCall("run", dict.fromkeys(["code", "n", "any", "maybe"], 3)),)), False
    )
    told = with_tools(dialect, [tool])
    assert told.read(text, False, True).calls == (ToolCall("run", {"code": "3", "n": 3, "any": 3, "maybe": 3}),)
    (call,) = told.read(text.replace("run", "walk"), False, True).calls
    assert call == ToolCall("walk", {"code": 3, "n": 3, "any": 3, "maybe": 3})


@pytest.mark.parametrize("code", ["3", "true", '"x"', "[1]", "print('</parameter></arg_value>')", '"</parameter>"'])
@pytest.mark.parametrize("dialect", [QWEN_XML, GLM4_7], ids=["qwen-xml", "glm4.7"])
def test_declared_texts_are_read_back_as_they_were_written(dialect: Marked, code: str) -> None:
    told = with_tools(dialect, [RUN])
    message = Message("assistant", "", (ToolCall("run", {"code": code}),))
    assert told.read(told.write(message, False), False, True).calls == message.tool_calls


@pytest.mark.parametrize(
    "tools",
    [[], [{}], [{"name": "f"}], [{"name": "f", "parameters": {"properties": {"a": True}}}], [{"function": None}]],
)
def test_schemas_of_another_make_declare_nothing(tools: list[dict[str, Any]]) -> None:
    assert with_tools(QWEN_XML, tools) == QWEN_XML


def test_json_needs_no_schema() -> None:
    assert with_tools(HERMES, [RUN]) is HERMES

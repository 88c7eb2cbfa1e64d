"""The tools that a row declares, as OpenAI's function schemas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sod.tasks.formats.base import BadRowError, Row
from sod.tasks.formats.calls import function_of
from sod.tasks.tables import json_or_none

_PARAMETERS = ("parameters", "input_schema", "inputSchema")
_SEVERAL = ("functionDeclarations", "function_declarations")
_SPEC = "toolSpec"
"""Below it Bedrock declares a tool, and the schema of its parameters below `json`."""


def read_tools(raw: Any, column: str = "tools") -> tuple[Row, ...]:
    """The tools of a row: a list, one tool, or JSON text of either; empty where it has none.

    OpenAI's form is kept as it is; flat ones, Anthropic's and MCP's (`input_schema`) are brought into it.
    Raises BadRowError.
    """
    if isinstance(raw, str):
        text, raw = raw, json_or_none(raw)
        if raw is None and text.strip() not in ("", "null"):
            raise BadRowError(f"{column} is a string but not JSON")
    if isinstance(raw, dict) and ("name" in raw or "function" in raw or any(key in raw for key in _SEVERAL)):
        raw = [raw]
    if isinstance(raw, dict) and isinstance(raw.get("tools"), list):
        raw = raw["tools"]
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise BadRowError(f"{column} is not a list but {type(raw).__name__}")
    return tuple(_openai(tool) for item in raw for tool in _each(item))


def tool_name(tool: Row) -> str:
    """The name of a tool that `read_tools` read."""
    return function_of(tool, "a declared tool")[0]


def _each(item: Any) -> Iterator[Any]:
    """The tools in an item of a list: one, or those below `functionDeclarations`."""
    decoded = json_or_none(item) if isinstance(item, str) else item
    item = item if decoded is None else decoded
    several = next((item[key] for key in _SEVERAL if key in item), None) if isinstance(item, dict) else None
    if isinstance(item, dict) and isinstance(item.get(_SPEC), dict):
        item = item[_SPEC]
    yield from several if isinstance(several, list) else [item]


def _openai(tool: Any) -> Row:
    if isinstance(tool, str):
        raise BadRowError("a declared tool is a text: give its name and its parameters, or leave the tools out")
    name, function = function_of(tool, "a declared tool")
    if isinstance(tool.get("function"), dict):
        return dict(tool)
    parameters = next((function[key] for key in _PARAMETERS if function.get(key) is not None), None)
    rest = {key: value for key, value in function.items() if key not in ("type", "name", "function", *_PARAMETERS)}
    if isinstance(parameters, dict) and parameters.keys() == {"json"}:
        parameters = parameters["json"]
    if isinstance(parameters, str):
        parameters = json_or_none(parameters)
    shown = {} if parameters is None else {"parameters": parameters}
    return {"type": "function", "function": {"name": name, **rest, **shown}}

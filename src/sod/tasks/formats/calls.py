"""Tool calls and function schemas as rows write them: OpenAI's form, flat, Anthropic's, or as JSON text."""

from __future__ import annotations

import ast
from typing import Any

from sod.records import ToolCall
from sod.tasks.formats.base import BadRowError, Row
from sod.tasks.tables import json_or_none

Call = tuple[str | None, ToolCall]
"""A call, and the id by which its answer names it."""

_ARGUMENTS = ("arguments", "parameters", "input", "args")
IDS = ("call_id", "tool_call_id", "tool_call_ids", "tool_use_id", "toolCallId", "toolUseId", "id")
_LITERAL_CHARS = 100_000  # Python's parser takes far more memory than a text is long


def read_calls(raw: Any) -> list[Call]:
    """The calls of a message: a list, one call, or JSON text of either. Raises BadRowError."""
    if isinstance(raw, str):
        text, raw = raw, json_or_none(raw)
        if raw is None and text.strip() not in ("", "null"):
            raise BadRowError("tool_calls is a string but not JSON")
    if raw is None:
        return []
    if not isinstance(raw, list | dict):
        raise BadRowError(f"tool_calls is not a list but {type(raw).__name__}")
    return [read_call(item) for item in (raw if isinstance(raw, list) else [raw])]


def read_call(item: Any) -> Call:
    """One call. Arguments that are missing, null or an empty text are none. Raises BadRowError."""
    item = json_or_none(item) if isinstance(item, str) else item
    name, function = function_of(item, "a tool call")
    ident = call_id(item)
    return ident, ToolCall(name, _arguments(function, name), ident)


def call_id(item: Row) -> str | None:
    """The id that a call or its answer carries, the first of several."""
    for key in IDS:
        value = item.get(key)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, str | int):
            return str(value)
    return None


def function_of(item: Any, what: str) -> tuple[str, Row]:
    """The name and body of a call or a declaration, in OpenAI's form or flat. Raises BadRowError."""
    function = (item.get("function") or item) if isinstance(item, dict) else None
    if isinstance(function, str):  # {"function": "name", "arguments": ...}
        return function, item
    name = (function.get("name") or function.get("toolName")) if isinstance(function, dict) else None
    if function is None or not isinstance(name, str) or not name:
        raise BadRowError(f"{what} has no name")
    return name, function


def _arguments(function: Row, name: str) -> Row:
    value = next((function[key] for key in _ARGUMENTS if function.get(key) is not None), None)
    for _ in range(2):  # some writers encode twice
        value = _decoded_object(value) if isinstance(value, str) else value
    if value is None or value == []:
        return {}
    if not isinstance(value, dict):
        raise BadRowError(f"the arguments of a call to '{name}' are no JSON object")
    return value


def _decoded_object(text: str) -> Any:
    """What a text of arguments says, in JSON or as Python writes a dict; the text itself where it is neither."""
    if text.strip() in ("", "null"):
        return None
    value = json_or_none(text)
    if value is None and text.lstrip().startswith("{"):
        value = literal_or_none(text)
    return text if value is None else value


def literal_or_none(text: str) -> Any:
    """The value of a Python literal; None for what is none, and for a text that would take its parser too much."""
    if len(text) > _LITERAL_CHARS:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None

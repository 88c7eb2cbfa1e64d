"""Hermes tool calls in sampled text: each becomes a `ToolCall` or a named failure, never an exception."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from sod.records import MalformedCall, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MAX_DEPTH = 64  # of a call's JSON: what is recorded must be writable by anyone's JSON writer
_MARK = re.compile(f"{OPEN}|{CLOSE}")


def parse_calls(text: str) -> tuple[ToolCall | MalformedCall, ...]:
    """The tool calls of one assistant turn, in order; empty for a turn without any.

    Only what follows the last `</think>` counts: a call that the model merely thinks about is not made.
    """
    spoken = text.rpartition("</think>")[2]
    found: list[ToolCall | MalformedCall] = []
    opened_at: int | None = None
    for mark in _MARK.finditer(spoken):
        if mark.group() == OPEN:
            if opened_at is not None:
                found.append(MalformedCall("unclosed_tool_call", f"{OPEN} inside {OPEN}"))
            opened_at = mark.end()
        elif opened_at is None:
            found.append(MalformedCall("unopened_tool_call", f"{CLOSE} without {OPEN}"))
        else:
            found.append(_parse_one(spoken[opened_at : mark.start()]))
            opened_at = None
    if opened_at is not None:
        found.append(MalformedCall("unclosed_tool_call", f"{OPEN} without {CLOSE}"))
    return tuple(found)


def _parse_one(body: str) -> ToolCall | MalformedCall:
    try:
        call = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "the value is too deep or too long")
        return MalformedCall("invalid_json", reason)
    if _deeper_than(call, MAX_DEPTH):
        return MalformedCall("invalid_json", f"nested deeper than {MAX_DEPTH}")
    if not isinstance(call, dict):
        return MalformedCall("invalid_call", "expected a JSON object with name and arguments")
    name, arguments = call.get("name"), call.get("arguments")
    if not isinstance(name, str):
        return MalformedCall("invalid_call", "name must be a string")
    if not isinstance(arguments, dict):
        return MalformedCall("invalid_call", "arguments must be a JSON object")
    return ToolCall(name, arguments)


def _deeper_than(value: Any, limit: int) -> bool:
    """Whether a JSON value nests deeper than `limit`; level by level, as recursion is what must not run out."""
    level = [value]
    for _ in range(limit):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return False
    return True


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def render_call(call: ToolCall) -> str:
    """The text of one call, as Qwen's and our template write it."""
    body = json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False)
    return f"{OPEN}\n{body}\n{CLOSE}"

"""What rows call messages, as messages."""

from __future__ import annotations

from typing import Any, cast

from sod.records import ROLES, Message, Role, ToolCall
from sod.tasks.formats.base import BadRowError, Row, decoded
from sod.tasks.tables import json_or_none


def read_messages(raw: Any, column: str, declared: frozenset[str] | None) -> tuple[Message, ...]:
    """`declared` are the names that may be called; None where the run declares the tools."""
    messages: list[Message] = []
    unanswered: list[tuple[str | None, str]] = []  # (call id, tool name)
    for item in decoded(raw, column, list):
        role = item.get("role") if isinstance(item, dict) else None
        if role not in ROLES:
            raise BadRowError(f"unknown role {role!r}")
        calls = _calls(decoded(item.get("tool_calls"), "tool_calls", list), declared)
        if calls and role != "assistant":
            raise BadRowError(f"{role} message with tool_calls")
        name = _answer(unanswered, item) if role == "tool" else None
        if role != "tool":
            unanswered = [(ident, call.name) for ident, call in calls]
        content = _content(item, may_be_empty=bool(calls))
        messages.append(Message(cast(Role, role), content, tuple(call for _, call in calls), name))
    if not messages:
        raise BadRowError(f"no {column}")
    return tuple(messages)


def _calls(raw: list[Any], declared: frozenset[str] | None) -> list[tuple[str | None, ToolCall]]:
    calls: list[tuple[str | None, ToolCall]] = []
    for item in raw:
        name, function = function_of(item, "a tool call")
        if declared is not None and name not in declared:
            raise BadRowError(f"tool '{name}' is not declared")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            arguments = json_or_none(arguments)
        if not isinstance(arguments, dict):
            raise BadRowError(f"the arguments of a call to '{name}' are no JSON object")
        calls.append((item.get("id"), ToolCall(name, arguments)))
    return calls


def function_of(item: Any, what: str) -> tuple[str, Row]:
    """The name and body of a call or a declaration, in OpenAI's form or flat."""
    function = (item.get("function") or item) if isinstance(item, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRowError(f"{what} has no name")
    return function["name"], function


def _answer(unanswered: list[tuple[str | None, str]], item: Row) -> str | None:
    """Take the call this tool message answers off the list; the tool's name if the row tells it."""
    if not unanswered:
        raise BadRowError("tool message with no preceding call")
    ident = item.get("tool_call_id")
    match = next((n for n, (call, _) in enumerate(unanswered) if ident is not None and call == ident), None)
    _, called = unanswered.pop(match or 0)
    name = item.get("name")
    return name if isinstance(name, str) else (called if match is not None else None)


def _content(item: Row, may_be_empty: bool) -> str:
    content = item.get("content")
    if content is None and may_be_empty:
        return ""
    if not isinstance(content, str):
        raise BadRowError(f"{item['role']} message without text content")
    try:
        content.encode()  # a lone surrogate (JSON can spell one) would fail only at the tokenizer
    except UnicodeEncodeError as error:
        raise BadRowError(f"{item['role']} message is not valid Unicode") from error
    return content


def prompt_messages(raw: Any, column: str) -> tuple[Message, ...]:
    """The messages of a prompt, which may be one text: the user message. Raises BadRowError."""
    if isinstance(raw, str) and raw.strip():
        raw = chat_or_none(raw) or [{"role": "user", "content": raw}]
    return read_messages(raw, column, declared=None)


def chat_or_none(text: str) -> list[Any] | None:
    """The messages of a prompt stored as JSON; None for a prompt that is simply text."""
    value = json_or_none(text) if text.lstrip().startswith("[") else None
    if isinstance(value, list) and value and all(isinstance(m, dict) and "role" in m for m in value):
        return value
    return None

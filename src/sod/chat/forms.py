"""How messages are handed to a chat template. Templates disagree: see `Form`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from sod.records import Message, ToolCall

Write = Callable[[Message], str]
"""What a dialect writes for an assistant's message."""
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")


@final
@dataclass(frozen=True)
class Form:
    """What a template expects of a message.

    `text_arguments`: a call's arguments are the text of their JSON (DeepSeek's add them to a string), not a mapping.
    `no_content`: an empty content beside calls is None, which some templates tell a call by.
    `blocks`: a content is a list of blocks, as templates of models that also see images expect it.
    `written`: calls are part of the content as the dialect writes them, as the template only shows tools (Granite 3).
    """

    text_arguments: bool = False
    no_content: bool = False
    blocks: bool = False
    written: bool = False


FORMS = (
    Form(),
    Form(text_arguments=True),
    Form(no_content=True),
    Form(text_arguments=True, no_content=True),
    Form(blocks=True),
    Form(text_arguments=True, blocks=True),
    Form(written=True),
)
"""All forms, in the order in which they are tried."""


def with_ids(calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
    """The calls of one turn, each with an id of nine letters and digits, which is what Mistral's templates demand.

    One that has such an id keeps it. Other ids say nothing to a model, so they give way to the number of the call.
    """
    return tuple(replace(call, id=_short_id(call, number)) for number, call in enumerate(calls))


def _short_id(call: ToolCall, number: int) -> str:
    return call.id if call.id is not None and _SHORT_ID.fullmatch(call.id) else f"call{number:05d}"


def rows(messages: Sequence[Message], form: Form, write: Write) -> list[dict[str, Any]]:
    """The messages as a template takes them. A tool message has the name and the id of the call that it answers."""
    found: list[dict[str, Any]] = []
    open_calls: list[ToolCall] = []
    for message in messages:
        row: dict[str, Any] = {"role": message.role, "content": _content(message, form, write)}
        if message.role == "assistant":
            open_calls = list(with_ids(message.tool_calls))
            row |= _of_assistant(message, form)
        elif message.role == "tool":
            call = open_calls.pop(0) if open_calls else None
            row |= _of_tool(message, call)
        found.append(row)
    return found


def _content(message: Message, form: Form, write: Write) -> Any:
    if form.written and message.tool_calls:
        return write(replace(message, tool_calls=with_ids(message.tool_calls), reasoning=None))
    if form.no_content and message.tool_calls and not message.content:
        return None
    if form.blocks:
        return [{"type": "text", "text": message.content}]
    return message.content


def _of_assistant(message: Message, form: Form) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if message.reasoning:
        row["reasoning_content"] = message.reasoning
        if not (message.content and message.tool_calls):  # gpt-oss' name for it; it takes but one of the two with calls
            row["thinking"] = message.reasoning
    if message.tool_calls and not form.written:
        row["tool_calls"] = [_call(call, form) for call in with_ids(message.tool_calls)]
    return row


def _call(call: ToolCall, form: Form) -> dict[str, Any]:
    arguments: Any = dict(call.arguments)
    if form.text_arguments:
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _of_tool(message: Message, call: ToolCall | None) -> dict[str, Any]:
    row: dict[str, Any] = {}
    name = message.name or (call.name if call is not None else None)
    if name:
        row["name"] = name
    if call is not None:
        row["tool_call_id"] = call.id
    return row

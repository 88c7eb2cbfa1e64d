"""Conversations that a template is tried with: their contents are marks that no template writes of itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

from sod.records import Message, Role, ToolCall

USER = Message("user", "probe")
ANSWER = "\u2402turn{}\u2403"
PARAMETER = "zqparameter"
ARGUMENT = "zqargument{}z"
NAME = "zqname{}z"
PROBE_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "zqtool",
        "description": "A probe.",
        "parameters": {
            "type": "object",
            "properties": {PARAMETER: {"type": "string", "description": "A text."}},
            "required": [PARAMETER],
        },
    },
}
SHOWN = ("zqtool", PARAMETER)
"""What a template that shows its tools writes of `PROBE_TOOL`."""
_CONTENT = '\n \u2402"{}{}\n"<&\'>\\ \u00e9\u2403 \n'  # with what a template might trim or escape

Change = Callable[[str], str]


def _in_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _in_ascii_json(text: str) -> str:
    return json.dumps(text)[1:-1]


CHANGES: tuple[Change, ...] = (
    str,
    lambda text: text.rstrip("\n"),
    lambda text: text.lstrip("\n"),
    lambda text: text.strip("\n"),
    str.rstrip,
    str.lstrip,
    str.strip,
    _in_json,
    lambda text: _in_json(text.strip()),
    _in_ascii_json,
    lambda text: _in_ascii_json(text.strip()),
)
"""What templates do to a content, in the order in which they are tried: of two that fit the first does more."""


def answer(turn: int) -> Message:
    """An assistant's answer that is a mark."""
    return Message("assistant", ANSWER.format(turn))


def calling(turn: int, count: int) -> Message:
    """An assistant's turn of `count` calls. Names, arguments and ids are marks."""
    return Message("assistant", "", tuple(call(turn * 1000 + number) for number in range(count)))


def call(number: int) -> ToolCall:
    """A call whose name, argument and id are marks."""
    return ToolCall(NAME.format(number), {PARAMETER: ARGUMENT.format(number)}, id=f"zq{number:07d}")


def content(role: str, number: int) -> str:
    """A content with white space around it and what is escaped in JSON inside."""
    return _CONTENT.format(role, number)


def others(turn: int, roles: Sequence[Role], calls: Sequence[ToolCall]) -> tuple[Message, ...]:
    """Messages of these roles after a turn; tool messages answer its `calls`."""
    names = iter([call.name for call in calls])
    return tuple(
        Message(role, content(role, turn * 1000 + at), name=next(names, None) if role == "tool" else None)
        for at, role in enumerate(roles)
    )


@final
@dataclass(frozen=True)
class Slot:
    """A place in what a template writes after a turn: the content or the name of message `at`, or a call's id."""

    kind: Literal["content", "name", "id"]
    at: int
    change: Change = str

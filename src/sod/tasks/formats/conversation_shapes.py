"""The shapes in which conversations for SFT come. The first that recognises a row reads it."""

from __future__ import annotations

from sod.tasks.base import Conversation
from sod.tasks.formats.base import BadRowError, Fields, Shape, decoded
from sod.tasks.formats.messages import function_of, read_messages


def _messages(fields: Fields, name: str) -> Conversation:
    tools = decoded(fields.use("tools"), "tools", list)
    declared = frozenset(function_of(tool, "a declared tool")[0] for tool in tools)
    messages = read_messages(fields.use("messages"), "messages", declared)
    if not any(message.role == "assistant" for message in messages):
        raise BadRowError("no assistant message")
    return Conversation(id=name, messages=messages, tools=tuple(tools))


CONVERSATION_SHAPES: tuple[Shape[Conversation], ...] = (Shape("messages", lambda row: "messages" in row, _messages),)

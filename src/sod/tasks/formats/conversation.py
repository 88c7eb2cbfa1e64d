"""What the shapes of SFT rows have in common: a system text beside the messages, tools, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sod.records import Message
from sod.tasks.base import Conversation
from sod.tasks.formats.base import BadRowError, Fields, Row
from sod.tasks.formats.content import read_content
from sod.tasks.formats.text_calls import tools_in
from sod.tasks.formats.tools import read_tools, tool_name

SYSTEMS = ("system", "system_prompt", "systemInstruction", "system_instruction")
TOOLS = ("tools", "functions", "toolConfig", "available_tools")


def first_of(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of `names` under which a row has something."""
    return next((name for name in names if row.get(name) not in (None, "", [], {})), None)


def conversation_of(fields: Fields, name: str, messages: Sequence[Message]) -> Conversation:
    """A row's messages with the system text and the tools that stand beside them. Raises BadRowError as `made`."""
    messages, tools = declared(with_system(fields, messages), row_tools(fields))
    return made(fields, name, messages, tools)


def made(fields: Fields, name: str, messages: Sequence[Message], tools: tuple[Row, ...]) -> Conversation:
    """The conversation of a row.

    Raises BadRowError for rows without an assistant message, without one that says something, or without one that
    counts in the loss, and for KTO's with an answer that is not wanted.
    """
    if isinstance(fields.row.get("label"), bool) and not fields.use("label"):
        raise BadRowError("label is false: an answer that is not to be learnt")
    assistants = [message for message in messages if message.role == "assistant"]
    if not assistants:
        raise BadRowError("no assistant message")
    if not any(message.content or message.tool_calls or message.reasoning for message in assistants):
        raise BadRowError("its assistant says nothing: there is nothing to train on")
    if not any(message.weight for message in assistants):
        raise BadRowError("every assistant message has weight 0: there is nothing to train on")
    return Conversation(name, tuple(messages), tools, row_reward(fields))


def with_system(fields: Fields, messages: Sequence[Message]) -> Sequence[Message]:
    """The messages below the row's own system text; one that the messages begin with goes before it."""
    column = first_of(fields.row, SYSTEMS)
    first = messages[0]
    if column is None:
        return messages
    if first.role == "system":
        if fields.row[column] == first.content:
            fields.use(column)
        return messages
    value = fields.use(column)
    value = value.get("parts", value) if isinstance(value, dict) else value
    text = read_content(value, "system").text
    return messages if text is None else [Message("system", text), *messages]


def row_tools(fields: Fields) -> tuple[Row, ...]:
    """The tools in the row's columns. Raises BadRowError."""
    column = first_of(fields.row, TOOLS)
    return () if column is None else read_tools(fields.use(column), column)


def declared(messages: Sequence[Message], tools: tuple[Row, ...]) -> tuple[Sequence[Message], tuple[Row, ...]]:
    """The messages and tools of a row whose system message shows tools in its text: a template shows them anew."""
    if messages[0].role != "system":
        return messages, tools
    text, shown = tools_in(messages[0].content)
    names = set(map(tool_name, tools))
    if not shown or (names and not names.issuperset(map(tool_name, shown))):
        return messages, tools
    rest = list(messages[1:])
    return ([replace(messages[0], content=text), *rest] if text else rest), tools or shown


def row_reward(fields: Fields) -> float | None:
    """What the episode of a row earned; None where the row does not say."""
    reward = fields.row.get("reward")
    if isinstance(reward, bool | int | float) and math.isfinite(reward):
        fields.use("reward")
        return float(reward)
    return None

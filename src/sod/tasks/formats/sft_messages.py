"""Rows of messages: OpenAI's, ShareGPT's, verl's, ms-swift's, SWE agents' and tau-bench's trajectories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sod.tasks.base import Conversation
from sod.tasks.formats.base import Fields, Row, Shape
from sod.tasks.formats.conversation import TOOLS, conversation_of, first_of
from sod.tasks.formats.draft import CONTENTS
from sod.tasks.formats.messages import chat_or_none, read_messages
from sod.tasks.formats.tools import read_tools

ASKED = ("prompt", "query", "question", "problem", "input", "instruction", "conversations", "conversation")
COLUMNS = ("messages", "conversations", "conversation", "dialog", "trajectory", "traj", "contents")


def _column(row: Mapping[str, Any]) -> str | None:
    """The column that holds messages: a list, or a text under the one name that means nothing else."""
    if "messages" in row:
        return "messages"
    if _has_roles(row.get("history")) and first_of(row, ASKED) is None:
        return "history"  # all that was said (SWE-agent), where no question says that it is what came before
    return next((name for name in COLUMNS if _is_chat(row.get(name))), None)


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and chat_or_none(value) is not None)


def _has_roles(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "role" in value[0]


def _read(fields: Fields, name: str) -> Conversation:
    column = _column(fields.row) or "messages"
    raw = fields.use(column)
    tools: tuple[Row, ...] = ()
    if first_of(fields.row, TOOLS) is None:
        raw, tools = _tools_of_system(raw)
    messages = read_messages(raw, column, fields)
    answer = _logged_answer(fields.row)
    if answer is not None:
        fields.use("response")
        messages = (*messages, *read_messages([answer], "response", fields))
    conversation = conversation_of(fields, name, messages)
    return replace(conversation, tools=tools) if tools else conversation


def _tools_of_system(raw: Any) -> tuple[Any, tuple[Row, ...]]:
    """The messages without the tools that the system message carries (ChatGLM4, Functionary), and those tools."""
    raw = chat_or_none(raw) or raw if isinstance(raw, str) else raw
    first = raw[0] if isinstance(raw, list) and raw else None
    if not isinstance(first, dict) or first.get("role") != "system":
        return raw, ()
    column = first_of(first, TOOLS)
    if column is None:
        return raw, ()
    bare = {key: value for key, value in first.items() if key != column}
    rest = raw[1:]
    return ([bare, *rest] if first_of(bare, CONTENTS) else rest), read_tools(first[column], column)


def _logged_answer(row: Mapping[str, Any]) -> Any:
    """What the model answered, in a log of requests with their responses (OpenHands); None in other rows."""
    response = row.get("response")
    choices = response.get("choices") if isinstance(response, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first.get("message") if isinstance(first, dict) else None


def _is_sharegpt(row: Mapping[str, Any]) -> bool:
    value = row.get(_column(row) or "messages")
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "from" in value[0]


SHAREGPT = Shape("sharegpt", _is_sharegpt, _read)
MESSAGES = Shape("messages", lambda row: _column(row) is not None, _read)

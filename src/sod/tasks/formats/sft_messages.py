"""Rows of messages: OpenAI's, ShareGPT's, verl's, ms-swift's, SWE agents' and tau-bench's trajectories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sod.tasks.base import Conversation
from sod.tasks.formats.base import Fields, Shape
from sod.tasks.formats.conversation import conversation_of
from sod.tasks.formats.messages import chat_or_none, read_messages

COLUMNS = ("messages", "conversations", "conversation", "dialog", "trajectory", "traj")


def _column(row: Mapping[str, Any]) -> str | None:
    """The column that holds messages: a list, or a text under the one name that means nothing else."""
    if "messages" in row:
        return "messages"
    return next((name for name in COLUMNS if _is_chat(row.get(name))), None)


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and chat_or_none(value) is not None)


def _read(fields: Fields, name: str) -> Conversation:
    column = _column(fields.row) or "messages"
    messages = read_messages(fields.use(column), column, fields)
    answer = _logged_answer(fields.row)
    if answer is not None:
        fields.use("response")
        messages = (*messages, *read_messages([answer], "response", fields))
    return conversation_of(fields, name, messages)


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

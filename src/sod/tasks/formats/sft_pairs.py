"""Rows of a prompt and its answer, texts or messages: TRL's prompt and completion, query and response, alpaca's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sod.tasks.base import Conversation
from sod.tasks.formats.base import BadRowError, Fields, Row, Shape, decoded
from sod.tasks.formats.calls import literal_or_none
from sod.tasks.formats.conversation import conversation_of, first_of
from sod.tasks.formats.messages import chat_or_none, read_messages
from sod.tasks.tables import json_or_none

PROMPTS = ("prompt", "query", "question", "problem", "input")
ANSWERS = (
    *("completion", "response", "responses", "output", "answer", "solution", "target"),
    *("generation", "llm_response"),
)
_OUTPUTS = ("output", "response")


def _is_pair(row: Mapping[str, Any]) -> bool:
    return first_of(row, PROMPTS) is not None and first_of(row, ANSWERS) is not None


def _pair(fields: Fields, name: str) -> Conversation:
    prompt, answer = first_of(fields.row, PROMPTS), first_of(fields.row, ANSWERS)
    if prompt is None or answer is None:
        raise BadRowError("no prompt" if prompt is None else "no answer")
    items = [
        *_history(fields),
        *_items(fields.use(prompt), prompt, "user"),
        *_items(fields.use(answer), answer, "assistant"),
    ]
    return conversation_of(fields, name, read_messages(items, prompt, fields))


def _alpaca(fields: Fields, name: str) -> Conversation:
    texts = [fields.use(key) or "" for key in ("instruction", "context", "input")]
    if not all(isinstance(text, str) for text in texts):
        raise BadRowError("instruction or input is no text")
    asked = "\n".join(text for text in texts if text)
    if not asked:
        raise BadRowError("no instruction")
    items = [*_history(fields), {"role": "user", "content": asked}]
    answer = first_of(fields.row, _OUTPUTS)
    if answer is None:
        raise BadRowError("no output")
    items += _items(fields.use(answer), answer, "assistant")
    return conversation_of(fields, name, read_messages(items, "instruction", fields))


def _items(value: Any, column: str, role: str) -> list[Any]:
    """A column of messages, of one message, or of a text that `role` says."""
    value = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if isinstance(value, str):
        chat = chat_or_none(value) if value.strip() else []
        return [{"role": role, "content": value}] if chat is None else chat
    if isinstance(value, dict):
        return [value if "role" in value else {"role": role, "content": value}]
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return [{"role": role, "content": value[0]}]
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return value
    raise BadRowError(f"{column} is neither a text nor messages")


def _history(fields: Fields) -> list[Row]:
    """Earlier questions and answers, each a pair of texts. All of them are trained on."""
    items = []
    history = fields.use("history")
    if isinstance(history, str) and json_or_none(history) is None:
        history = literal_or_none(history) or history  # as Python writes it
    for pair in decoded(history, "history", list):
        if isinstance(pair, dict):
            items.append(pair)
            continue
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRowError("history is no list of pairs")
        items += [{"role": role, "content": text} for role, text in zip(("user", "assistant"), pair, strict=True)]
    return items


ALPACA = Shape("alpaca", lambda row: bool(first_of(row, ("instruction",)) and first_of(row, _OUTPUTS)), _alpaca)
PAIRS = Shape("prompt and answer", _is_pair, _pair)

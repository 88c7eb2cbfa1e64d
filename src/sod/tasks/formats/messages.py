"""What rows call messages, as messages.

OpenAI's, its older `function_call` and newer Responses items, ShareGPT's `from` and `value`, Anthropic's blocks, and
calls in the text between Hermes' marks. What an item is stands in `turns`; here the parts of a turn are joined, and
each tool message finds the call that it answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sod.records import Message
from sod.tasks.formats.base import BadRowError, Fields, Row, decoded
from sod.tasks.formats.calls import literal_or_none
from sod.tasks.formats.chatml import chatml_or_none
from sod.tasks.formats.draft import Draft
from sod.tasks.formats.turns import READ, drafts_of
from sod.tasks.tables import json_or_none

_PAIR = {"system": "system", "tool": "tool"} | dict.fromkeys(("human", "user", "query", "input"), "user")
_PAIR |= dict.fromkeys(("assistant", "gpt", "bot", "response", "output"), "assistant")
"""The keys of pairs (ms-swift, Capybara, XTuner), one item for a question and its answer, in the order of speaking."""
_ACTION = re.compile(r"^\s*Action Input\s*:", re.MULTILINE)
"""Where ReAct writes a call into the text."""


def read_messages(raw: Any, column: str, fields: Fields | None = None) -> tuple[Message, ...]:
    """The messages of a row's column, a list or its JSON text.

    `fields` hears of keys of messages that nobody reads. Raises BadRowError.
    """
    drafts: list[Draft] = []
    for item in _items(raw, column, fields):
        if fields is not None and isinstance(item, dict):
            for key in item.keys() - READ:
                if item[key] not in (None, "", [], {}):
                    fields.leave(f"{column}[].{key}")
        for draft in drafts_of(item):
            _append(drafts, draft)
    drafts = [draft for draft in drafts if not draft.part or draft.calls or draft.content or draft.reasoning]
    if not drafts:
        raise BadRowError(f"no {column}")
    return tuple(_messages(drafts))


def prompt_messages(raw: Any, column: str, fields: Fields | None = None) -> tuple[Message, ...]:
    """The messages of a prompt, which may be one text: the user message. Raises BadRowError."""
    if isinstance(raw, str) and raw.strip():
        written = chatml_or_none(raw)
        if written and fields is not None:
            fields.remark(f"{column} is written in ChatML, and is read as the messages in it")
        raw = written or chat_or_none(raw) or [{"role": "user", "content": raw}]
    return read_messages(raw, column, fields)


def chat_or_none(text: str) -> list[Any] | None:
    """The messages of a prompt stored as JSON; None for a prompt that is simply text."""
    value = json_or_none(text) if text.lstrip().startswith("[") else None
    if isinstance(value, list) and value and all(isinstance(m, dict) and ("role" in m or "from" in m) for m in value):
        return value
    return None


def _items(raw: Any, column: str, fields: Fields | None) -> Iterator[Any]:
    """The items of a column; a pair is one item for each of its keys, and texts alone are said by turns (LIMA)."""
    if isinstance(raw, str) and raw.lstrip().startswith("[{'") and json_or_none(raw) is None:
        raw = literal_or_none(raw) or raw  # as Python writes it
    items = decoded(raw, column, list)
    if items and all(isinstance(item, str) for item in items):
        items = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(items)]
    for item in items:
        if _is_pair(item):
            for key in item.keys() - _PAIR.keys():
                if fields is not None:
                    fields.leave(f"{column}[].{key}")
            yield from ({"role": role, "content": item[key]} for key, role in _PAIR.items() if key in item)
        elif isinstance(item, dict) and "observation" in item and isinstance(item.get("name"), str):
            yield from _call_and_answer(item)
        else:
            yield item


def _is_pair(item: Any) -> bool:
    """Whether an item is what several said: it has no role, and both sides speak, or nothing else is in it."""
    if not isinstance(item, dict) or not item or "role" in item or "from" in item:
        return False
    return item.keys() <= _PAIR.keys() or {"user", "assistant"} <= {_PAIR.get(key) for key in item}


def _call_and_answer(item: Row) -> Iterator[Row]:
    """A tool's message that holds its own call (ChatGLM3): the call, which ends the turn before, and the answer."""
    kept = {key: value for key, value in item.items() if key not in ("observation", "parameters", "role")}
    yield {"role": "tool_call", "name": item["name"], "arguments": item.get("parameters")}
    yield {**kept, "role": "tool", "content": item["observation"]}


def _append(drafts: list[Draft], draft: Draft) -> None:
    """Add a draft, or join it to the turn that it is a part of."""
    last = drafts[-1] if drafts else None
    if last is None or last.role != "assistant" or draft.role != "assistant":
        drafts.append(draft)
        return
    only_thought = last.part and not last.calls and not last.content
    starts_turn = draft.part and not draft.calls
    both_call = bool(last.calls and draft.calls)  # before an answer came: calls of one turn, one message each
    if not only_thought and not both_call and (starts_turn or not draft.part):
        drafts.append(draft)
        return
    if None not in (last.weight, draft.weight) and last.weight != draft.weight:
        raise BadRowError("parts of one assistant turn with different weights")
    last.content = "\n".join(text for text in (last.content, draft.content) if text)
    last.reasoning = "\n".join(text for text in (last.reasoning, draft.reasoning) if text) or None
    last.calls += draft.calls
    last.malformed += draft.malformed
    last.weight = draft.weight if last.weight is None else last.weight
    last.part = only_thought and draft.part


def _messages(drafts: list[Draft]) -> Iterator[Message]:
    unanswered: list[tuple[str | None, str | None]] = []  # (call id, tool name)
    acted = False
    for draft in drafts:
        if draft.role == "tool" and not unanswered and (draft.world or acted):
            draft.role = "user"  # what answers an action that was written as text
        name = _answer(unanswered, draft) if draft.role == "tool" else None
        if draft.role != "tool":
            unanswered = [(ident, call.name) for ident, call in draft.calls]
            unanswered += [(None, None)] * draft.malformed
            acted = draft.role == "assistant" and _ACTION.search(draft.content) is not None
        yield Message(
            draft.role,
            draft.content,
            tuple(call for _, call in draft.calls),
            name,
            draft.reasoning,
            1.0 if draft.weight is None else draft.weight,
        )


def _answer(unanswered: list[tuple[str | None, str | None]], draft: Draft) -> str | None:
    """Take the call this tool message answers off the list: by its id, else in order. The tool's name."""
    if not unanswered:
        raise BadRowError("tool message with no preceding call: give the assistant's message before it its tool_calls")
    ident = draft.answers
    match = next((n for n, (call, _) in enumerate(unanswered) if ident is not None and call == ident), None)
    _, called = unanswered.pop(match or 0)
    return draft.name or called

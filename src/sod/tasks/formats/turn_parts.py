"""Items that are a part of an assistant's turn: a call or a thought by itself."""

from __future__ import annotations

import re
from typing import Any

from sod.records import ToolCall
from sod.tasks.formats.base import BadRowError, Row
from sod.tasks.formats.calls import literal_or_none, read_call, read_calls
from sod.tasks.formats.content import checked, read_content
from sod.tasks.formats.draft import Draft, content_of
from sod.tasks.formats.glaive_text import quoted_call
from sod.tasks.formats.text_calls import calls_in
from sod.tasks.formats.weights import weight_of
from sod.tasks.tables import json_or_none

_THOUGHT_FIRST = re.compile(r"\s*<think>(.*?)</think>\s*(.*)", re.DOTALL)


def call_part(item: Row) -> Draft:
    """A call by itself: its own item (Responses), or a message whose text is the call as JSON (ShareGPT, ms-swift).

    Raises BadRowError.
    """
    weight = weight_of(item, "assistant")
    value = content_of(item)
    if isinstance(item.get("name"), str) and (value is None or "arguments" in item):
        return Draft("assistant", calls=[read_call(item)], weight=weight, part=True)
    thought = _THOUGHT_FIRST.fullmatch(value) if isinstance(value, str) else None
    reasoning = checked(thought.group(1).strip("\n"), "assistant") if thought else None
    said = value if thought is None else thought.group(2)
    said = _call_value(said) if isinstance(said, str) else said
    if isinstance(said, str):
        marked = calls_in(said)
        calls = [(None, call) for call in marked.calls if isinstance(call, ToolCall)] if marked else []
        if marked is None or len(calls) < len(marked.calls):
            raise BadRowError("a call that is not JSON")
        return Draft("assistant", marked.answer.strip("\n"), list(calls), reasoning, weight, part=True)
    return Draft("assistant", calls=read_calls(said), reasoning=reasoning, weight=weight, part=True)


def _call_value(text: str) -> Any:
    """The calls that a text is, in JSON, as Glaive or as Python writes them; the text itself where it is none."""
    for value in (json_or_none(text), json_or_none(quoted_call(text)), literal_or_none(text)):
        if isinstance(value, dict | list):
            return value
    return text


def thought_part(item: Row) -> Draft:
    """A thought by itself: a summary of it, or its text. Raises BadRowError."""
    texts = [read_content(item.get(key), "assistant") for key in ("summary", "content", "value", "text")]
    found = [thought for parts in texts for thought in (parts.text, *parts.thoughts) if thought]
    return Draft("assistant", reasoning="\n".join(found) or None, part=True)

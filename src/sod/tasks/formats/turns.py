"""Items of a row's messages as drafts: whose turn each is, or which part of a turn."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, final

from sod.records import MalformedCall, Role, ToolCall
from sod.tasks.formats.base import BadRowError, Row
from sod.tasks.formats.calls import IDS, Call, call_id, literal_or_none, read_call, read_calls
from sod.tasks.formats.content import Parts, checked, output_text, read_content
from sod.tasks.formats.glaive_text import quoted_call
from sod.tasks.formats.text_calls import calls_in, results_in
from sod.tasks.formats.weights import DETAILS, MASK, WEIGHTS, weight_of
from sod.tasks.tables import json_or_none

_ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "ai"), "assistant"),
    **dict.fromkeys(("tool", "function", "ipython", "observation", "environment"), "tool"),
    **dict.fromkeys(("tool_response", "tool_result", "function_response", "function_call_output"), "tool"),
}
_CALLS = frozenset({"function_call", "tool_call", "tool_calls", "custom_tool_call"})
_THOUGHTS = frozenset({"reasoning", "thinking"})
_WORLDS = frozenset({"observation", "environment"})
_REASONING = ("reasoning_content", "reasoning", "thinking")
_CONTENTS = ("content", "value", "text", "output", "system_prompt")
_THOUGHT_FIRST = re.compile(r"\s*<think>(.*?)</think>\s*(.*)", re.DOTALL)
READ = frozenset({"role", "from", "type", "name", "function_call", "tool_calls", "arguments", "call_id", "id"})
READ |= {*_CONTENTS, *_REASONING, *WEIGHTS, MASK, *DETAILS, "summary", *IDS}
"""The keys of an item that are read."""


@final
@dataclass
class Draft:
    """A message that is still put together.

    `part` says that the item is only a part of an assistant's turn: a call or a thought by itself. `malformed` counts
    the calls in its text that cannot be read, `answers` is the id of the call that a tool message answers, and `world`
    that its role is also the name of a user who is no person.
    """

    role: Role
    content: str = ""
    calls: list[Call] = field(default_factory=list)
    reasoning: str | None = None
    weight: float | None = None
    name: str | None = None
    answers: str | None = None
    part: bool = False
    malformed: int = 0
    world: bool = False


def drafts_of(item: Any) -> list[Draft]:
    """The drafts of one item; several where a message holds results beside its text. Raises BadRowError."""
    if not isinstance(item, dict):
        raise BadRowError("unknown role None")
    raw_role = item.get("role") or item.get("from") or item.get("type")
    name = raw_role.strip().lower().replace("-", "_") if isinstance(raw_role, str) else None
    if name in _CALLS:
        return [_call_part(item)]
    if name in _THOUGHTS:
        return [_thought_part(item)]
    role = _ROLES.get(name or "")
    if role is None:
        raise BadRowError(f"unknown role {raw_role!r}")
    weight = weight_of(item, role)
    if role == "tool":
        return list(_tool_drafts(item, name in _WORLDS))
    if role == "assistant":
        return [_assistant(item, weight)]
    return _spoken(item, role)


def _content_of(item: Row) -> Any:
    return next((item[key] for key in _CONTENTS if item.get(key) is not None), None)


def _call_part(item: Row) -> Draft:
    """A call by itself: its own item (Responses), or a message whose text is the call as JSON (ShareGPT, ms-swift)."""
    weight = weight_of(item, "assistant")
    value = _content_of(item)
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


def _thought_part(item: Row) -> Draft:
    texts = [read_content(item.get(key), "assistant") for key in ("summary", "content", "value", "text")]
    found = [thought for parts in texts for thought in (parts.text, *parts.thoughts) if thought]
    return Draft("assistant", reasoning="\n".join(found) or None, part=True)


def _tool_drafts(item: Row, world: bool) -> Iterator[Draft]:
    content = _content_of(item)
    name = item["name"] if isinstance(item.get("name"), str) else None
    results = _block_results(content)
    if results:
        yield from (Draft("tool", text, name=name, answers=ident or call_id(item)) for ident, text in results)
        return
    for text in results_in(output_text(content)):
        yield Draft("tool", text, name=name, answers=call_id(item), world=world)


def _block_results(content: Any) -> list[tuple[str | None, str]]:
    """The result blocks of a tool message (Vercel, LLaMA-Factory); none where its content is another."""
    blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    kinds = {str(block.get("type")).replace("-", "_") for block in blocks}
    return read_content(content, "tool").results if kinds and kinds <= {"tool_result", "tool_response"} else []


def _spoken(item: Row, role: Role) -> list[Draft]:
    """A system's or user's message: the results in it (Anthropic) come before what it says."""
    if read_calls(item.get("tool_calls")):
        raise BadRowError(f"{role} message with tool_calls")
    parts = read_content(_content_of(item), role)
    if parts.calls or parts.thoughts or (parts.results and role != "user"):
        raise BadRowError(f"{role} message with calls, thoughts or results in it")
    drafts = [Draft("tool", text, answers=ident) for ident, text in parts.results]
    if parts.text is None and not drafts:
        raise BadRowError(f"{role} message without text content")
    return drafts if parts.text is None else [*drafts, Draft(role, parts.text)]


def _assistant(item: Row, weight: float | None) -> Draft:
    parts = read_content(_content_of(item), "assistant")
    if parts.results:
        raise BadRowError("assistant message with results in it")
    calls = read_calls(item.get("tool_calls")) + parts.calls
    if item.get("function_call"):
        calls.append(read_call(item["function_call"]))
    reasoning = _reasoning(item, parts)
    if parts.text is None and not calls and not reasoning:
        raise BadRowError("assistant message without text content")
    draft = Draft("assistant", parts.text or "", calls, reasoning, weight)
    said = None if calls else calls_in(draft.content)
    if said is not None:
        draft.calls = [(None, call) for call in said.calls if isinstance(call, ToolCall)]
        draft.malformed = sum(isinstance(call, MalformedCall) for call in said.calls)
    if said is not None and draft.calls:
        draft.content = said.answer.strip("\n")
        draft.reasoning = reasoning or said.thinking.strip("\n") or None
    return draft


def _reasoning(item: Row, parts: Parts) -> str | None:
    """What the assistant thought, by a field of its message or by blocks of its content."""
    for key in _REASONING:
        value = item.get(key)
        if isinstance(value, str) and value:
            return checked(value, "assistant")
        if isinstance(value, list) and value:
            inner = read_content(value, "assistant")
            return "\n".join(text for text in (inner.text, *inner.thoughts) if text) or None
    return "\n".join(parts.thoughts) or None

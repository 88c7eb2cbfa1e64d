"""Items of a row's messages as drafts: whose turn each is, or which part of a turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sod.records import MalformedCall, Role, ToolCall
from sod.tasks.formats.base import BadRowError, Row
from sod.tasks.formats.calls import IDS, call_id, read_call, read_calls
from sod.tasks.formats.content import Parts, checked, output_text, read_content
from sod.tasks.formats.draft import CONTENTS, Draft, content_of
from sod.tasks.formats.keyed_parts import typed
from sod.tasks.formats.text_calls import calls_in, results_in
from sod.tasks.formats.turn_parts import call_part, thought_part
from sod.tasks.formats.weights import DETAILS, MASK, WEIGHTS, weight_of

_ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatbot", "chatgpt", "ai"), "assistant"),
    **dict.fromkeys(("tool", "function", "ipython", "observation", "environment"), "tool"),
    **dict.fromkeys(("tool_response", "tool_result", "function_response", "function_call_output"), "tool"),
}
_KNOWN = "use system, user, assistant or tool"
_CALLS = frozenset({"function_call", "tool_call", "tool_calls", "custom_tool_call"})
_THOUGHTS = frozenset({"reasoning", "thinking"})
_WORLDS = frozenset({"observation", "environment"})
_REASONING = ("reasoning_content", "reasoning", "thinking")
READ = frozenset({"role", "from", "type", "name", "function_call", "tool_calls", "arguments", "call_id", "id"})
READ |= {*CONTENTS, *_REASONING, *WEIGHTS, MASK, *DETAILS, "summary", *IDS}
"""The keys of an item that are read."""


def drafts_of(item: Any) -> list[Draft]:
    """The drafts of one item; several where a message holds results beside its text. Raises BadRowError."""
    if not isinstance(item, dict):
        raise BadRowError(f"unknown role None: {_KNOWN}")
    raw_role = item.get("role") or item.get("from") or item.get("type")
    name = raw_role.strip().lower().replace("-", "_") if isinstance(raw_role, str) else None
    if name in _CALLS:
        return [call_part(item)]
    if name in _THOUGHTS:
        return [thought_part(item)]
    role = _ROLES.get(name or "")
    if role is None:
        raise BadRowError(f"unknown role {raw_role!r}: {_KNOWN}")
    weight = weight_of(item, role)
    if role == "tool":
        return list(_tool_drafts(item, name in _WORLDS))
    if role == "assistant":
        return [_assistant(item, weight)]
    return _spoken(item, role)


def _tool_drafts(item: Row, world: bool) -> Iterator[Draft]:
    content = content_of(item)
    name = item["name"] if isinstance(item.get("name"), str) else None
    results = _block_results(content)
    if results:
        yield from (Draft("tool", text, name=name, answers=ident or call_id(item)) for ident, text in results)
        return
    for text in results_in(output_text(content)):
        yield Draft("tool", text, name=name, answers=call_id(item), world=world)


def _block_results(content: Any) -> list[tuple[str | None, str]]:
    """The result blocks of a tool message (Vercel, LLaMA-Factory); none where its content is another."""
    blocks = [typed(block) for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    kinds = {str(block.get("type")).replace("-", "_") for block in blocks}
    return read_content(content, "tool").results if kinds and kinds <= {"tool_result", "tool_response"} else []


def _spoken(item: Row, role: Role) -> list[Draft]:
    """A system's or user's message: the results in it (Anthropic) come before what it says."""
    if read_calls(item.get("tool_calls")):
        raise BadRowError(f"{role} message with tool_calls")
    parts = read_content(content_of(item), role)
    if parts.calls or parts.thoughts or (parts.results and role != "user"):
        raise BadRowError(f"{role} message with calls, thoughts or results in it")
    drafts = [Draft("tool", text, answers=ident) for ident, text in parts.results]
    if parts.text is None and not drafts:
        raise BadRowError(f"{role} message without text content")
    return drafts if parts.text is None else [*drafts, Draft(role, parts.text)]


def _assistant(item: Row, weight: float | None) -> Draft:
    parts = read_content(content_of(item), "assistant")
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

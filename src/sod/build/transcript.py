"""A small conversation as a run would write it: every token with its id, for a person to look at."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, final

from sod.chat.render import Chat
from sod.records import MalformedCall, Message, Said, ToolCall

QUESTION, ANSWER = "What is 6 * 7?", "\\boxed{42}"
_SAMPLES: Mapping[str, Any] = {"integer": 7, "number": 0.5, "boolean": True, "array": [], "object": {}, "null": None}
Kind = Literal["control", "text"]


@final
@dataclass(frozen=True)
class Run:
    """Tokens that are shown as one text: a control token alone, or others up to the end of a line."""

    kind: Kind
    text: str
    token_ids: tuple[int, ...]


@final
@dataclass(frozen=True)
class Part:
    """A stretch of the ledger in lines. `said` is what the dialect reads in it, for a turn, which is action tokens."""

    title: str
    tokens: int
    lines: tuple[tuple[Run, ...], ...]
    said: str | None = None


def transcript(chat: Chat) -> list[Part]:
    """The parts of a conversation with the chat's first tool: prompt, a call, its result, an answer."""
    call = sample_call(chat.tools)
    messages = [Message("user", QUESTION)]
    if call is not None:
        messages += [Message("assistant", "", (call,)), Message("tool", "42", name=call.name)]
    messages.append(Message("assistant", ANSWER))
    ids, turns = chat.encode_conversation(messages)
    parts = []
    start = 0
    for turn, run in groupby(turns):
        stop = start + len(list(run))
        said = _words(chat.parse(ids[start:stop], ids[:start])) if turn else None
        parts.append(Part(_title(turn, start), stop - start, tuple(_lines(chat, ids[start:stop])), said))
        start = stop
    return parts


def _title(turn: int, start: int) -> str:
    if turn:
        return f"turn {turn}, sampled"
    return "prompt" if start == 0 else "result and next prompt"


def sample_call(tools: Sequence[Mapping[str, Any]]) -> ToolCall | None:
    """A call of the first tool, with a value of its type for each parameter; None where there is no tool."""
    if not tools:
        return None
    function = tools[0].get("function", tools[0])
    properties = (function.get("parameters") or {}).get("properties") or {}
    arguments = {name: _sample(declared) for name, declared in properties.items()}
    return ToolCall(str(function["name"]), arguments)


def _sample(declared: Any) -> Any:
    kind = declared.get("type") if isinstance(declared, Mapping) else None
    return _SAMPLES.get(str(kind), "print(6 * 7)")


def _lines(chat: Chat, ids: Sequence[int]) -> Iterator[tuple[Run, ...]]:
    """The tokens as runs, a new line behind every token that ends in a line break."""
    control = chat.control_ids
    line: list[Run] = []
    waiting: list[int] = []
    for token in ids:
        if token in control:
            line += _run(chat, waiting)
            waiting = []
            line.append(Run("control", _decoded(chat, [token]), (token,)))
            continue
        waiting.append(token)
        if _decoded(chat, [token]).endswith("\n"):
            yield (*line, *_run(chat, waiting))
            line, waiting = [], []
    if line or waiting:
        yield (*line, *_run(chat, waiting))


def _run(chat: Chat, ids: Sequence[int]) -> list[Run]:
    return [Run("text", _decoded(chat, ids), tuple(ids))] if ids else []


def _decoded(chat: Chat, ids: Sequence[int]) -> str:
    return str(chat.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _words(said: Said) -> str:
    """What a turn says, in one line."""
    found = [f"thought {json.dumps(said.thinking, ensure_ascii=False)}"] if said.thinking.strip() else []
    for call in said.calls:
        if isinstance(call, MalformedCall):
            found.append(f"a call that cannot be read ({call.error}: {call.detail})")
        else:
            found.append(f"call {call.name}({json.dumps(dict(call.arguments), ensure_ascii=False)})")
    if said.answer.strip():
        found.append(f"answer {json.dumps(said.answer.strip(), ensure_ascii=False)}")
    return ", ".join(found) or "nothing"

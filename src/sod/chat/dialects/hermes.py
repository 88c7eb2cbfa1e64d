"""Hermes: JSON calls between `<tool_call>` marks, thoughts before `</think>`. What Qwen's and our template write."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, final

from sod.chat.dialects.base import Piece
from sod.records import MalformedCall, Said, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
THINK, THOUGHT = "<think>", "</think>"
MAX_DEPTH = 64  # of a call's JSON: what is recorded must be writable by anyone's JSON writer
_MARK = re.compile(f"{OPEN}|{CLOSE}")
_ANY_MARK = re.compile(f"{OPEN}|{CLOSE}|{THINK}|{THOUGHT}")


@final
@dataclass(frozen=True)
class Hermes:
    """The dialect over a tokenizer: `decode` gives the text of a turn without its end token, one of `stop_ids`."""

    decode: Callable[[Sequence[int]], str]
    stop_ids: frozenset[int]
    name: str = "hermes"

    def parse(self, token_ids: Sequence[int]) -> Said:
        """See `Dialect.parse`."""
        text = self.decode(token_ids)
        if token_ids and token_ids[-1] in self.stop_ids:
            return read(text)
        thinking, answer = _split(text)
        return Said(thinking, answer)

    def pieces(self, text: str) -> list[Piece]:
        """See `Dialect.pieces`."""
        return pieces(text)

    def render_call(self, call: ToolCall) -> str:
        """See `Dialect.render_call`."""
        return render_call(call)


def read(text: str) -> Said:
    """The thoughts, answer and calls of a finished turn; each call is a `ToolCall` or a named failure.

    Only what follows the last `</think>` counts: a call that the model merely thinks about is not made. A call that
    could be read is taken out of the answer, with the line break before it; one that could not is left in it.
    """
    thinking, rest = _split(text)
    found: list[ToolCall | MalformedCall] = []
    kept: list[str] = []  # the pieces of the answer
    kept_to = 0
    opened_at: int | None = None  # where the body of an open call begins
    for mark in _MARK.finditer(rest):
        if mark.group() == OPEN:
            if opened_at is not None:
                found.append(MalformedCall("unclosed_tool_call", f"{OPEN} inside {OPEN}"))
            opened_at = mark.end()
        elif opened_at is None:
            found.append(MalformedCall("unopened_tool_call", f"{CLOSE} without {OPEN}"))
        else:
            call = _parse_one(rest[opened_at : mark.start()])
            found.append(call)
            if isinstance(call, ToolCall):
                kept.append(rest[kept_to : opened_at - len(OPEN)].removesuffix("\n"))
                kept_to = mark.end()
            opened_at = None
    if opened_at is not None:
        found.append(MalformedCall("unclosed_tool_call", f"{OPEN} without {CLOSE}"))
    return Said(thinking, "".join(kept) + rest[kept_to:], tuple(found))


def pieces(text: str) -> list[Piece]:
    """The text cut at its marks: a frame for each mark that `read` goes by, content for what stands between them."""
    found = []
    content_from = 0
    for start, stop in _frames(text):
        found += [Piece(text[content_from:start], frame=False), Piece(text[start:stop], frame=True)]
        content_from = stop
    found.append(Piece(text[content_from:], frame=False))
    return [piece for piece in found if piece.text]


def _frames(text: str) -> Iterable[tuple[int, int]]:
    """Where the marks are. Inside a thought, and inside a call's JSON where it can be read, a mark is text."""
    at = 0
    while mark := _ANY_MARK.search(text, at):
        yield mark.span()
        at = mark.end()
        if mark.group() == THINK:
            at = max(at, text.find(THOUGHT, at))
        elif mark.group() == OPEN:
            with suppress(ValueError, RecursionError):
                at = json.JSONDecoder().raw_decode(text, len(text) - len(text[at:].lstrip()))[1]


def render_call(call: ToolCall) -> str:
    """The text of one call, as Qwen's and our template write it."""
    body = json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False)
    return f"{OPEN}\n{body}\n{CLOSE}"


def _split(text: str) -> tuple[str, str]:
    """What stands before the last `</think>`, and what follows it. A template may have written `<think>` itself."""
    thinking, _, rest = text.rpartition(THOUGHT)
    return thinking.removeprefix(THINK), rest


def _parse_one(body: str) -> ToolCall | MalformedCall:
    try:
        call = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "the value is too deep or too long")
        return MalformedCall("invalid_json", reason)
    if _deeper_than(call, MAX_DEPTH):
        return MalformedCall("invalid_json", f"nested deeper than {MAX_DEPTH}")
    if not isinstance(call, dict):
        return MalformedCall("invalid_call", "expected a JSON object with name and arguments")
    name, arguments = call.get("name"), call.get("arguments")
    if not isinstance(name, str):
        return MalformedCall("invalid_call", "name must be a string")
    if not isinstance(arguments, dict):
        return MalformedCall("invalid_call", "arguments must be a JSON object")
    return ToolCall(name, arguments)


def _deeper_than(value: Any, limit: int) -> bool:
    """Whether a JSON value nests deeper than `limit`; level by level, as recursion is what must not run out."""
    level = [value]
    for _ in range(limit):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return False
    return True


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()

"""Hermes: JSON calls between `<tool_call>` marks, thoughts between `<think>` marks. What Qwen's and our template write.

One scanner reads a turn from left to right; `read` and `pieces` say what it found. Its rule:

- Outside a thought `<think>` opens one. `<tool_call>` opens a call: optional white space, a JSON value, optional white
  space, `</tool_call>`. What looks like a mark inside a string of the JSON is text.
- A call whose JSON cannot be read, or is followed by something else, ends at the next `</tool_call>`; where none comes
  before another `<tool_call>`, it is unclosed and ends with its JSON, or with its mark where that cannot be read. Both
  are malformed, as is a `</tool_call>` that nothing opened.
- Inside a thought everything is text up to `</think>`. A whole `<tool_call>`, JSON, `</tool_call>` is no call there,
  and a `</think>` inside a string of its JSON does not end the thought.
- A thought that is never closed takes all that follows: nothing more is said, no call is made.
- A `</think>` that nothing opened makes a thought of all that stands before it, calls included: the prompt may have
  opened it.
- Where the prompt leaves a thought open (Qwen3-Thinking, DeepSeek-R1), the turn begins inside it, so a turn without
  `</think>` is all thought. It may repeat the `<think>` as its first word.
- There may be several thoughts. Each is thinking; the answer is the rest, without the calls that could be read.
- A turn that was cut off makes no calls: their text stays in the answer.

Linear in the length of the text: see `_json_at`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, final

from sod.chat.dialects.base import Piece
from sod.records import MalformedCall, Message, Said, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
THINK, THOUGHT = "<think>", "</think>"
_NOT_OURS = ("<function=", "<arg_key>")
MAX_DEPTH = 64  # of a call's JSON: what is recorded must be writable by anyone's JSON writer
_MARK = re.compile(f"{OPEN}|{CLOSE}|{THINK}|{THOUGHT}")
_SPACE = re.compile(r"[ \t\n\r]*")  # JSON's
_STRETCH = re.compile(r'[^"<\\]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"<\\]*+)*+', re.DOTALL)
_DECODER = json.JSONDecoder()


@final
@dataclass(frozen=True)
class Hermes:
    """The dialect; `HERMES` is its one value."""

    name: str = "hermes"

    def speaks(self, template: str) -> bool:
        """See `Dialect.speaks`. Other families put the same marks around calls that are no JSON."""
        return OPEN in template and not any(mark in template for mark in _NOT_OURS)

    def opens_thought(self, prompt: str) -> bool:
        """See `Dialect.opens_thought`."""
        return prompt.rstrip().endswith(THINK)

    def without_thought(self, prompt: str) -> str:
        """See `Dialect.without_thought`."""
        before, found, thought = prompt.rpartition(THINK)
        return before if found and thought.strip() in ("", THOUGHT) else prompt

    def read(self, text: str, thought_open: bool, finished: bool) -> Said:
        """See `Dialect.read`."""
        return read(text, thought_open, finished)

    def pieces(self, text: str, thought_open: bool) -> list[Piece]:
        """See `Dialect.pieces`."""
        return pieces(text, thought_open)

    def write(self, message: Message, thought_open: bool) -> str:
        """See `Dialect.write`. A content may bring its thought along, between marks of its own."""
        calls = "\n".join(map(render_call, message.tool_calls))
        content = message.content
        if message.reasoning:
            thought, rest = message.reasoning.strip("\n"), content.lstrip("\n")
            content = f"{THINK}\n{thought}\n{THOUGHT}\n\n{rest}"
        joint = "\n" if message.content and calls else ""
        text = f"{content}{joint}{calls}"
        return _within_thought(text) if thought_open else text


HERMES = Hermes()


def _within_thought(text: str) -> str:
    """A turn as it goes on from a prompt that opened a thought."""
    if text.startswith(THINK):
        rest = text.removeprefix(THINK).removeprefix("\n")
        return text if rest.startswith(THINK) else rest  # a thought that begins with the mark repeats the prompt's
    closes = any(piece.frame and piece.text == THOUGHT for piece in pieces(text, thought_open=True))
    return text if closes else f"\n{THOUGHT}\n\n{text}"


def read(text: str, thought_open: bool = False, finished: bool = True) -> Said:
    """The thoughts, answer and calls of a turn by the rule above; each call is a `ToolCall` or a named failure.

    A call that could be read is taken out of the answer, with the line break before it; one that could not is left in
    it, and so is every call of a turn that is not `finished`. Several thoughts are put one below the other.
    """
    thoughts: list[str] = []
    answer: list[str] = []
    calls: list[ToolCall | MalformedCall] = []
    before: _Kind = "mark"
    for span in _scan(text, thought_open):
        part = text[span.start : span.stop]
        if span.kind == "thought":
            thoughts.append(part)
        elif span.kind == "said" or (span.kind == "call" and not finished):
            answer.append(part)
        elif span.call is not None:
            calls.append(span.call)
            if not isinstance(span.call, ToolCall):
                answer.append(part)
            elif before == "said":
                answer[-1] = answer[-1].removesuffix("\n")
        before = span.kind
    return Said("\n".join(thoughts), "".join(answer), tuple(calls))


def pieces(text: str, thought_open: bool = False) -> list[Piece]:
    """The text cut at its marks: a frame for each mark that `read` goes by, content for what stands between them."""
    found = []
    content_from = 0
    for start, stop in _frames(text, _scan(text, thought_open)):
        if start > content_from:
            found.append(Piece(text[content_from:start], frame=False))
        found.append(Piece(text[start:stop], frame=True))
        content_from = stop
    if content_from < len(text):
        found.append(Piece(text[content_from:], frame=False))
    return found


def render_call(call: ToolCall) -> str:
    """The text of one call, as Qwen's and our template write it."""
    body = json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False)
    return f"{OPEN}\n{body}\n{CLOSE}"


_Kind = Literal["said", "thought", "mark", "call"]


@final
@dataclass(frozen=True)
class _Span:
    """A stretch of a turn. A mark is one of a thought; a call has its own marks in it."""

    kind: _Kind
    start: int
    stop: int
    call: ToolCall | MalformedCall | None = None


def _scan(text: str, thought_open: bool) -> list[_Span]:
    """The spans of a turn, end to end. None is empty."""
    marks = list(_MARK.finditer(text))
    following = _next_call_marks(marks)
    spans: list[_Span] = []
    inside = thought_open and not text.startswith(THINK)
    unopened = 0  # the spans before the last `</think>` that nothing opened
    span_from = 0  # where the span begins that is being read
    text_to = 0  # marks before it are text
    for at, mark in enumerate(marks):
        if mark.start() < text_to:
            continue
        if inside and mark.group() == OPEN:
            text_to = _whole_call_end(text, mark.end())
        if inside and mark.group() != THOUGHT:
            continue
        spans += _text_span("thought" if inside else "said", span_from, mark.start())
        if mark.group() in (THINK, THOUGHT):
            spans.append(_Span("mark", *mark.span()))
            if mark.group() == THOUGHT and not inside:
                unopened = len(spans)
            inside = mark.group() == THINK
        else:
            spans.append(_call_span(text, marks, at, following))
        span_from = text_to = spans[-1].stop
    spans += _text_span("thought" if inside else "said", span_from, len(text))
    return _as_thoughts(spans[:unopened]) + spans[unopened:]


def _text_span(kind: _Kind, start: int, stop: int) -> list[_Span]:
    return [_Span(kind, start, stop)] if start < stop else []


def _as_thoughts(spans: Iterable[_Span]) -> list[_Span]:
    """The spans with a thought for all that stands between two marks of thoughts."""
    thoughts: list[_Span] = []
    for span in spans:
        if span.kind == "mark":
            thoughts.append(span)
        elif thoughts and thoughts[-1].kind == "thought":
            thoughts[-1] = replace(thoughts[-1], stop=span.stop)
        else:
            thoughts.append(_Span("thought", span.start, span.stop))
    return thoughts


def _frames(text: str, spans: Iterable[_Span]) -> Iterable[tuple[int, int]]:
    """Where the marks are. A call has two, or one where it is unclosed or unopened."""
    for span in spans:
        if span.kind == "mark":
            yield span.start, span.stop
        elif span.kind == "call":
            if text.startswith(OPEN, span.start):
                yield span.start, span.start + len(OPEN)
            if text.endswith(CLOSE, span.start, span.stop):
                yield span.stop - len(CLOSE), span.stop


def _next_call_marks(marks: Sequence[re.Match[str]]) -> list[int]:
    """For each mark the index of the next one that is of a call, `len(marks)` where none follows."""
    following = [len(marks)] * len(marks)
    for at in range(len(marks) - 2, -1, -1):
        after = marks[at + 1]
        following[at] = at + 1 if after.group() in (OPEN, CLOSE) else following[at + 1]
    return following


def _call_span(text: str, marks: Sequence[re.Match[str]], at: int, following: Sequence[int]) -> _Span:
    """The call that the mark `at` opens or closes; `following` is what `_next_call_marks` gives."""
    start, begin = marks[at].span()
    if marks[at].group() == CLOSE:
        return _Span("call", start, begin, MalformedCall("unopened_tool_call", f"{CLOSE} without {OPEN}"))
    call, json_end = _json_at(text, begin)
    after = following[at]
    while after < len(marks) and marks[after].start() < json_end:
        after = following[after]  # that one is in a string of the JSON
    if after == len(marks):
        return _Span("call", start, json_end, MalformedCall("unclosed_tool_call", f"{OPEN} without {CLOSE}"))
    if marks[after].group() == OPEN:
        return _Span("call", start, json_end, MalformedCall("unclosed_tool_call", f"{OPEN} inside {OPEN}"))
    if json_end > begin and not _closes_at(text, json_end):
        call = MalformedCall("invalid_json", "Extra data")
    return _Span("call", start, marks[after].end(), call)


def _whole_call_end(text: str, begin: int) -> int:
    """Where a call ends whose `<tool_call>` ends at `begin`; 0 where it is not whole."""
    _, json_end = _json_at(text, begin)
    closing = _closes_at(text, json_end)
    return closing if json_end > begin else 0


def _closes_at(text: str, at: int) -> int:
    """Where the `</tool_call>` ends that follows `at` after no more than white space; 0 where none does."""
    at = _after_space(text, at)
    return at + len(CLOSE) if text.startswith(CLOSE, at) else 0


def _after_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _json_at(text: str, begin: int) -> tuple[ToolCall | MalformedCall, int]:
    """The call that the JSON value at `begin` makes, and where the value ends: at `begin` where it cannot be read.

    Only the stretch is decoded that could be JSON by its quotes alone: no `<` and no backslash outside a string. That
    bounds the time: of two attempts that read the same stretch of text, one takes for strings what the other takes
    for the space between them, so that the next `<tool_call>` ends one of the two. Nothing is read more than twice.
    """
    stretch = _STRETCH.match(text, begin)
    body = stretch.group() if stretch else ""
    try:
        value, length = _DECODER.raw_decode(body, _after_space(body, 0))
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "the value is too deep or too long")
        return MalformedCall("invalid_json", reason), begin
    return _as_call(value), begin + length


def _as_call(value: Any) -> ToolCall | MalformedCall:
    if _deeper_than(value, MAX_DEPTH):
        return MalformedCall("invalid_json", f"nested deeper than {MAX_DEPTH}")
    if not isinstance(value, dict):
        return MalformedCall("invalid_call", "expected a JSON object with name and arguments")
    name, arguments = value.get("name"), value.get("arguments")
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

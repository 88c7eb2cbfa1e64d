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

Linear in the length of the text: see `json_reader`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from sod.chat.dialects.base import Piece
from sod.chat.dialects.blocks import Call, Span, as_thoughts, pieces_in, text_span
from sod.chat.dialects.json_calls import MAX_DEPTH, after_space, as_call, deeper_than, json_reader
from sod.records import MalformedCall, Message, Said, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
THINK, THOUGHT = "<think>", "</think>"
_NOT_OURS = ("<function=", "<arg_key>")
_MARK = re.compile(f"{OPEN}|{CLOSE}|{THINK}|{THOUGHT}")
_read_json = json_reader("<")


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
    calls: list[Call] = []
    before = "mark"
    for span in _scan(text, thought_open):
        part = text[span.start : span.stop]
        if span.kind == "thought":
            thoughts.append(part)
        elif span.kind == "said" or (span.kind == "block" and not finished):
            answer.append(part)
        elif span.kind == "block":
            calls += span.calls
            if not span.whole:
                answer.append(part)
            elif before == "said":
                answer[-1] = answer[-1].removesuffix("\n")
        before = span.kind
    return Said("\n".join(thoughts), "".join(answer), tuple(calls))


def pieces(text: str, thought_open: bool = False) -> list[Piece]:
    """The text cut at its marks: a frame for each mark that `read` goes by, content for what stands between them."""
    return pieces_in(text, _scan(text, thought_open))


def render_call(call: ToolCall) -> str:
    """The text of one call, as Qwen's and our template write it."""
    body = json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False)
    return f"{OPEN}\n{body}\n{CLOSE}"


def _scan(text: str, thought_open: bool) -> list[Span]:
    """The spans of a turn, end to end. None is empty."""
    marks = list(_MARK.finditer(text))
    following = _next_call_marks(marks)
    spans: list[Span] = []
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
        spans += text_span("thought" if inside else "said", span_from, mark.start())
        if mark.group() in (THINK, THOUGHT):
            spans.append(Span("mark", *mark.span()))
            if mark.group() == THOUGHT and not inside:
                unopened = len(spans)
            inside = mark.group() == THINK
        else:
            spans.append(_call_span(text, marks, at, following))
        span_from = text_to = spans[-1].stop
    spans += text_span("thought" if inside else "said", span_from, len(text))
    return as_thoughts(spans[:unopened]) + spans[unopened:]


def _next_call_marks(marks: Sequence[re.Match[str]]) -> list[int]:
    """For each mark the index of the next one that is of a call, `len(marks)` where none follows."""
    following = [len(marks)] * len(marks)
    for at in range(len(marks) - 2, -1, -1):
        after = marks[at + 1]
        following[at] = at + 1 if after.group() in (OPEN, CLOSE) else following[at + 1]
    return following


def _call_span(text: str, marks: Sequence[re.Match[str]], at: int, following: Sequence[int]) -> Span:
    """The call that the mark `at` opens or closes; `following` is what `_next_call_marks` gives."""
    mark = start, begin = marks[at].span()
    if marks[at].group() == CLOSE:
        error = MalformedCall("unopened_tool_call", f"{CLOSE} without {OPEN}")
        return Span("block", start, begin, (mark,), (error,))
    found = _read_json(text, begin)
    after = following[at]
    while after < len(marks) and marks[after].start() < found.stop:
        after = following[after]  # that one is in a string of the JSON
    if after == len(marks) or marks[after].group() == OPEN:
        lacks = f"without {CLOSE}" if after == len(marks) else f"inside {OPEN}"
        error = MalformedCall("unclosed_tool_call", f"{OPEN} {lacks}")
        return Span("block", start, found.stop, (mark,), (error,))
    closing = marks[after].span()
    call = found.failure or _as_call(found.value)
    if found.stop > begin and not _closes_at(text, found.stop):
        call = MalformedCall("invalid_json", "Extra data")
    return Span("block", start, closing[1], (mark, closing), (call,))


def _whole_call_end(text: str, begin: int) -> int:
    """Where a call ends whose `<tool_call>` ends at `begin`; 0 where it is not whole."""
    stop = _read_json(text, begin).stop
    return _closes_at(text, stop) if stop > begin else 0


def _closes_at(text: str, at: int) -> int:
    """Where the `</tool_call>` ends that follows `at` after no more than white space; 0 where none does."""
    at = after_space(text, at)
    return at + len(CLOSE) if text.startswith(CLOSE, at) else 0


def _as_call(value: Any) -> Call:
    """The call that a JSON value makes: without an id, as the dialect has none."""
    if deeper_than(value, MAX_DEPTH):
        return MalformedCall("invalid_json", f"nested deeper than {MAX_DEPTH}")
    call = as_call(value)
    return ToolCall(call.name, call.arguments) if isinstance(call, ToolCall) else call

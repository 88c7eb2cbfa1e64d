"""Turns of text, thoughts between two marks, and blocks of calls: how all dialects of that make are read.

A dialect says what its marks are and how one block is read (`Grammar`); the rule for the rest is that of Hermes:

- Outside a thought a mark opens a thought or a block. A mark that closes a block which nothing opened is malformed.
- Inside a thought everything is text up to the mark that ends it; of a block that can be read whole no mark ends it,
  where the dialect tells a mark in a string from others (`shields`).
- A thought that is never closed takes all that follows: nothing more is said, no call is made.
- An end of a thought that nothing opened makes a thought of all that stands before it, blocks included.
- A block that could be read is taken out of the answer, with what the dialect writes before it (`lead`) and the white
  space between two blocks; one that could not is left in it, and so is every block of a turn that was cut off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, final

from sod.chat.dialects.base import Piece
from sod.records import MalformedCall, Said, ToolCall

Call = ToolCall | MalformedCall


@final
@dataclass(frozen=True)
class Span:
    """A stretch of a turn. A `mark` is all frame; `frames` are the marks in a block, `calls` what it says."""

    kind: Literal["said", "thought", "mark", "block"]
    start: int
    stop: int
    frames: tuple[tuple[int, int], ...] = ()
    calls: tuple[Call, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether a block says nothing but calls that could be read."""
        return bool(self.calls) and all(isinstance(call, ToolCall) for call in self.calls)


@final
@dataclass(frozen=True)
class Grammar:
    """The marks of a dialect. `block` and `silent` are regular expressions without named groups.

    `block` matches what opens a block, and what would close one; `read_block(text, start, begin)` reads the block whose
    mark is `text[start:begin]`, and looks no further than the next such mark behind the block. `silent` matches marks
    that say nothing, `lead` is what is written between a content and its calls. Without thoughts there is no `think`.
    """

    block: str
    read_block: Callable[[str, int, int], Span]
    think: str = ""
    thought: str = ""
    silent: str = ""
    lead: str = ""
    shields: bool = True

    def opens_thought(self, prompt: str) -> bool:
        """Whether a rendered generation prompt ends inside a thought."""
        return bool(self.think) and prompt.rstrip().endswith(self.think.rstrip())

    def without_thought(self, prompt: str) -> str:
        """A rendered prompt without the open, empty or closed thought at its end.

        Some templates close a thought that they never opened, to say that there is none (DeepSeek V3.1).
        """
        return _without_end(_without_end(prompt, self.thought), self.think.rstrip())

    def read(self, text: str, thought_open: bool, finished: bool) -> Said:
        """What a turn says by the rule above."""
        return said_in(text, self.scan(text, thought_open), finished, self.lead)

    def pieces(self, text: str, thought_open: bool) -> list[Piece]:
        """The text cut at the marks that `read` goes by."""
        return pieces_in(text, self.scan(text, thought_open))

    def scan(self, text: str, thought_open: bool) -> list[Span]:
        """The spans of a turn, end to end. None is empty."""
        marks = _marks(self.think, self.thought, self.silent, self.block)
        spans: list[Span] = []
        inside = thought_open and not text.startswith(self.think)
        unopened = 0  # the spans before the last end of a thought that nothing opened
        span_from = 0  # where the span begins that is being read
        mark = marks.search(text)
        while mark is not None:
            kind, text_to = mark.lastgroup, mark.end()
            block = self.read_block(text, mark.start(), mark.end()) if kind == "block" else None
            if inside and kind != "thought":
                text_to = block.stop if self.shields and block and block.whole else text_to
            else:
                spans += text_span("thought" if inside else "said", span_from, mark.start())
                spans.append(block or Span("mark", *mark.span()))
                if kind == "thought" and not inside:
                    unopened = len(spans)
                inside = kind == "think"
                span_from = text_to = spans[-1].stop
            mark = marks.search(text, text_to)
        spans += text_span("thought" if inside else "said", span_from, len(text))
        return as_thoughts(spans[:unopened]) + spans[unopened:]


@cache
def _marks(think: str, thought: str, silent: str, block: str) -> re.Pattern[str]:
    """Every mark of a grammar, in a group by its kind."""
    kinds = {"think": re.escape(think), "thought": re.escape(thought), "silent": silent, "block": block}
    return re.compile("|".join(f"(?P<{kind}>{mark})" for kind, mark in kinds.items() if mark), re.DOTALL)


@final
@dataclass(frozen=True)
class Body:
    """What stands between the marks of a block, up to `stop`; it ends where it begins if it could not be read."""

    calls: tuple[Call, ...]
    stop: int
    frames: tuple[tuple[int, int], ...] = ()


def closed_block(text: str, mark: tuple[int, int], body: Body, marks: re.Pattern[str], close: re.Pattern[str]) -> Span:
    """The block that `mark` opens, and that one of `marks` should close, namely one that `close` matches."""
    start, begin = mark
    frames = (mark, *body.frames)
    after = marks.search(text, body.stop)
    if after is None or not close.match(text, after.start()):
        error = MalformedCall("unclosed_tool_call", f"{text[start:begin].strip()} is not closed")
        return Span("block", start, max(begin, body.stop), frames, (error,))
    calls = body.calls
    if body.stop > begin and text[body.stop : after.start()].strip():
        calls = (MalformedCall("invalid_json", "Extra data"),)
    return Span("block", start, after.end(), (*frames, after.span()), calls)


def unopened_block(text: str, start: int, stop: int) -> Span:
    """A mark that closes a block which nothing opened."""
    error = MalformedCall("unopened_tool_call", f"{text[start:stop].strip()} closes nothing")
    return Span("block", start, stop, ((start, stop),), (error,))


def _without_end(text: str, mark: str) -> str:
    """The text without a mark at its end, and the white space behind it; as it is where it ends otherwise."""
    return text.rstrip().removesuffix(mark) if mark and text.rstrip().endswith(mark) else text


def text_span(kind: Literal["said", "thought"], start: int, stop: int) -> list[Span]:
    """The span of a text, none if it is empty."""
    return [Span(kind, start, stop)] if start < stop else []


def as_thoughts(spans: Iterable[Span]) -> list[Span]:
    """The spans with a thought for all that stands between two marks of thoughts."""
    thoughts: list[Span] = []
    for span in spans:
        if span.kind == "mark":
            thoughts.append(span)
        elif thoughts and thoughts[-1].kind == "thought":
            thoughts[-1] = replace(thoughts[-1], stop=span.stop)
        else:
            thoughts.append(Span("thought", span.start, span.stop))
    return thoughts


def said_in(text: str, spans: Sequence[Span], finished: bool, lead: str = "", joint: str = "") -> Said:
    """What the spans of a turn say; `joint` stands between what is said in one span and in the next."""
    thoughts: list[str] = []
    answer: list[str] = []
    calls: list[Call] = []
    for at, span in enumerate(spans):
        part = text[span.start : span.stop]
        taken = finished and at + 1 < len(spans) and spans[at + 1].whole
        if span.kind == "thought":
            thoughts.append(part)
        elif span.kind == "said":
            between = taken and at > 0 and spans[at - 1].whole and not part.strip()
            answer.append("" if between else part.removesuffix(lead) if taken else part)
        elif span.kind == "block" and finished:
            calls += span.calls
            answer.append("" if span.whole else part)
        elif span.kind == "block":
            answer.append(part)
    return Said("\n".join(thoughts), joint.join(part for part in answer if part), tuple(calls))


def pieces_in(text: str, spans: Iterable[Span]) -> list[Piece]:
    """The text cut at the marks of its spans."""
    found = []
    content_from = 0
    for start, stop in _frames(spans):
        if start > content_from:
            found.append(Piece(text[content_from:start], frame=False))
        found.append(Piece(text[start:stop], frame=True))
        content_from = stop
    if content_from < len(text):
        found.append(Piece(text[content_from:], frame=False))
    return found


def _frames(spans: Iterable[Span]) -> Iterable[tuple[int, int]]:
    for span in spans:
        if span.kind == "mark":
            yield span.start, span.stop
        yield from span.frames

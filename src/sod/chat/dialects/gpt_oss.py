"""gpt-oss ("harmony"): a turn of messages, each with a header that names its channel and whom it is for.

The generation prompt ends in `<|start|>assistant`, so a turn begins with the rest of a header. Its rule:

- A header is `<|start|>assistant`, but for the first, `to=RECIPIENT` before or behind `<|channel|>CHANNEL`, a type
  with or without `<|constrain|>`, and `<|message|>`. `<|end|>`, `<|call|>`, `<|return|>` or `<|start|>` ends a message.
- A message with a recipient is a call, its name the recipient without `functions.`; such marks in strings of its JSON
  are text. `analysis` is thinking. All else is said, on a line of its own, what stands outside of messages too.
- A recipient and a channel without `<|message|>` are a malformed call. A turn that was cut off makes no calls.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import final

from sod.chat.dialects.base import Piece
from sod.chat.dialects.blocks import Span, pieces_in, said_in
from sod.chat.dialects.json_calls import after_space, call_of, in_json, json_reader
from sod.records import MalformedCall, Message, Said, ToolCall

START, CHANNEL, MESSAGE, END, CALL = "<|start|>assistant", "<|channel|>", "<|message|>", "<|end|>", "<|call|>"
THINK = f"{CHANNEL}analysis{MESSAGE}"
_RECIPIENT = r"(?:to=([^\s<]++))?+\s*+"
_HEAD = rf"(?:<\|start\|>assistant)?+\s*+{_RECIPIENT}"
_HEADER = re.compile(
    rf"{_HEAD}<\|channel\|>\s*+([\w-]*+)\s*+{_RECIPIENT}(?:<\|constrain\|>)?+\s*+[\w-]*+\s*+<\|message\|>"
)
_BROKEN = re.compile(rf"{_HEAD}(?:<\|channel\|>[^<]*+(?:<\|constrain\|>[^<]*+)?+)?+")
_ENDS = re.compile(r"<\|(?:end|call|return)\|>")
_STOPS = re.compile(r"<\|(?:end|call|return|start)\|>")
_MARKS = re.compile(r"<\|(?:end|call|return|start|channel)\|>")
_JSON = json_reader("<")


@final
@dataclass(frozen=True)
class GptOss:
    """The dialect; `GPT_OSS` is its one value."""

    name: str = "gpt-oss"

    def speaks(self, template: str) -> bool:
        """See `Dialect.speaks`."""
        return all(word in template for word in (CHANNEL, MESSAGE, "commentary"))

    def opens_thought(self, prompt: str) -> bool:
        """See `Dialect.opens_thought`."""
        return prompt.endswith(THINK)

    def without_thought(self, prompt: str) -> str:
        """See `Dialect.without_thought`."""
        return prompt.removesuffix(THINK)

    def read(self, text: str, thought_open: bool, finished: bool) -> Said:
        """See `Dialect.read`."""
        return said_in(text, _scan(text, thought_open), finished, joint="\n")

    def pieces(self, text: str, thought_open: bool) -> list[Piece]:
        """See `Dialect.pieces`. What ends the last message may end the turn, so it is no mark of it."""
        found = pieces_in(text, _scan(text, thought_open))
        if found and _ENDS.fullmatch(found[-1].text):
            found[-1] = Piece(found[-1].text, frame=False)
        return found

    def write(self, message: Message, thought_open: bool) -> str:
        """See `Dialect.write`. What is said before a call is a preamble, on the channel of the calls."""
        written = []
        if message.reasoning or thought_open:
            written.append(f"{THINK}{message.reasoning or ''}{END}")
        if message.tool_calls and message.content:
            written.append(f"{CHANNEL}commentary{MESSAGE}{message.content}{END}")
        written += [_call_text(call) for call in message.tool_calls]
        if not message.tool_calls:
            written.append(f"{CHANNEL}final{MESSAGE}{message.content}")
        text = START.join(written).removesuffix(CALL)
        return text.removeprefix(THINK) if thought_open else text


def _call_text(call: ToolCall) -> str:
    return f" to=functions.{call.name}{CHANNEL}commentary json{MESSAGE}{in_json(call.arguments)}{CALL}"


def _scan(text: str, thought_open: bool) -> list[Span]:
    """The spans of a turn, end to end. None is empty."""
    spans: list[Span] = []
    at = 0
    if thought_open:
        spans, at = _content(text, 0, "analysis")
    while at < len(text):
        header = _HEADER.match(text, at)
        if header is None:
            found = _outside(text, at)
        elif recipient := header.group(1) or header.group(3):
            found = _call(text, header, recipient)
        else:
            content, _ = _content(text, header.end(), header.group(2))
            found = [Span("mark", *header.span()), *content]
        spans += found
        at = found[-1].stop
    return spans


def _content(text: str, begin: int, channel: str) -> tuple[list[Span], int]:
    """`(spans, where they end)` of what a message without a recipient says, and the mark that ends it."""
    stop = _STOPS.search(text, begin)
    to = stop.start() if stop else len(text)
    spans = [Span("thought" if channel == "analysis" else "said", begin, to)] if begin < to else []
    ending = _ENDS.match(text, to)
    if ending:
        spans.append(Span("mark", *ending.span()))
    return spans, spans[-1].stop if spans else begin


def _call(text: str, header: re.Match[str], recipient: str) -> list[Span]:
    begin = header.end()
    decoded = _JSON(text, begin)
    stop = _STOPS.search(text, decoded.stop)
    to = stop.start() if stop else len(text)
    call = decoded.failure or call_of(recipient.removeprefix("functions."), decoded.value)
    if decoded.failure is None and after_space(text, decoded.stop) < to:
        call = MalformedCall("invalid_json", "Extra data")
    ending = _ENDS.match(text, to)
    marks = (header.span(), ending.span()) if ending else (header.span(),)
    return [Span("block", header.start(), ending.end() if ending else to, marks, (call,))]


def _outside(text: str, at: int) -> list[Span]:
    """What stands outside of messages: a mark, a header without its message, or text up to the next mark."""
    ending = _ENDS.match(text, at)
    if ending:
        return [Span("mark", *ending.span())]
    broken = _BROKEN.match(text, at)
    if broken and CHANNEL in broken.group() and "to=" in broken.group():
        call = MalformedCall("invalid_call", f"a recipient without {MESSAGE}")
        return [Span("block", *broken.span(), calls=(call,))]
    following = _MARKS.search(text, at + 1)
    return [Span("said", at, following.start() if following else len(text))]


GPT_OSS = GptOss()

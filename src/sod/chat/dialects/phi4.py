"""Phi-4-mini: a JSON list of calls between `<|tool_call|>` marks, or behind the word `functools` (vLLM's template).

That template writes the calls of earlier turns as bare JSON, which is read at the beginning of a turn if it is a call.
Phi-4-reasoning puts thoughts between `<think>` marks. The rule for a turn is that of `blocks`.
"""

from __future__ import annotations

import re

from sod.chat.dialects.block_dialect import BlockDialect
from sod.chat.dialects.blocks import Body, Grammar, Span, closed_block, unopened_block
from sod.chat.dialects.json_calls import as_calls, in_json, json_reader
from sod.records import Message, ToolCall

OPEN, CLOSE, FUNCTOOLS = "<|tool_call|>", "<|/tool_call|>", "functools"
_CLOSES = re.compile(re.escape(CLOSE))
_MARKS = re.compile(f"{re.escape(OPEN)}|{re.escape(CLOSE)}")
_JSON = json_reader("<")
_LIST = rf'{FUNCTOOLS}(?=\[)|\A\{{(?="name")'
_LIST_MARK = re.compile(rf"{FUNCTOOLS}(?=\[)")
_JSON_OF_LIST = json_reader(rf"{FUNCTOOLS}\[")


def _said(message: Message) -> str:
    listed = ", ".join(map(_object_text, message.tool_calls))
    return f"{message.content}{OPEN}[{listed}]{CLOSE}" if listed else message.content


def _said_functools(message: Message) -> str:
    listed = ", ".join(map(_object_text, message.tool_calls))
    return f"{message.content}{FUNCTOOLS}[{listed}]" if listed else message.content


def _object_text(call: ToolCall) -> str:
    return in_json({"name": call.name, "arguments": dict(call.arguments)})


def _block(text: str, start: int, begin: int) -> Span:
    if _CLOSES.match(text, start):
        return unopened_block(text, start, begin)
    decoded = _JSON(text, begin)
    calls = as_calls(decoded.value) if decoded.failure is None else (decoded.failure,)
    return closed_block(text, (start, begin), Body(calls, decoded.stop), _MARKS, _CLOSES)


def _functools_block(text: str, start: int, begin: int) -> Span:
    """The list behind the word, which nothing closes: one that cannot be read ends at the next such word."""
    marked = text.startswith(FUNCTOOLS, start)
    decoded = _JSON_OF_LIST(text, begin if marked else start)
    if decoded.failure is None:
        return Span("block", start, decoded.stop, ((start, begin),) if marked else (), as_calls(decoded.value))
    if not marked:
        return Span("said", start, begin)
    following = _LIST_MARK.search(text, begin)
    return Span("block", start, following.start() if following else len(text), ((start, begin),), (decoded.failure,))


_GRAMMAR = Grammar(_MARKS.pattern, _block, think="<think>", thought="</think>")
PHI4 = BlockDialect(
    "phi4",
    _GRAMMAR,
    spoken_in=lambda template: OPEN in template and CLOSE in template,  # Granite has the first alone
    said_by=_said,
)
PHI4_FUNCTOOLS = BlockDialect(
    "phi4-functools",
    Grammar(_LIST, _functools_block, think="<think>", thought="</think>"),
    spoken_in=lambda template: f"{FUNCTOOLS}[" in template,
    said_by=_said_functools,
)

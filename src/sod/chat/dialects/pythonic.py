"""Calls as a list of Python's: LFM2's between marks; Llama 3.2's and 4's, ToolACE's and others' on a line by itself.

Without marks a line is a call only if it can be read as a list of nothing but calls, as answers may begin with a
bracket. The rule for a turn is that of `blocks`; for values see `python_values`.
"""

from __future__ import annotations

import re

from sod.chat.dialects.block_dialect import BlockDialect
from sod.chat.dialects.blocks import Body, Grammar, Span, closed_block, unopened_block
from sod.chat.dialects.python_values import Calls, UnreadableError, written
from sod.records import MalformedCall, Message, ToolCall

OPEN, CLOSE = "<|tool_call_start|>", "<|tool_call_end|>"
_MARKS = re.compile(f"{re.escape(OPEN)}|{re.escape(CLOSE)}")
_CLOSES = re.compile(re.escape(CLOSE))
_BRACKET = re.compile(r"\s*+\[")
_LINE = r"(?:(?<=\n)|(?<=</think>)|\A)\[(?=[^\W\d][\w.-]*+\()"
_SHOWN = re.compile(r"\[\w+\(\w+=\w+")  # how these templates show a call to the model
_IDENTIFIER = re.compile(r"[^\W\d]\w*+")


def _listed(calls: tuple[ToolCall, ...]) -> str:
    return f"[{', '.join(map(_call_text, calls))}]"


def _call_text(call: ToolCall) -> str:
    """The call, arguments whose names are no identifiers behind two stars."""
    named = [f"{key}={written(value)}" for key, value in call.arguments.items() if _IDENTIFIER.fullmatch(key)]
    others = {key: value for key, value in call.arguments.items() if not _IDENTIFIER.fullmatch(key)}
    return f"{call.name}({', '.join([*named, f'**{written(others)}'] if others else named)})"


def _body(text: str, begin: int, bracket: int) -> Body:
    """The calls behind a bracket that ends at `bracket`; the body begins at `begin`."""
    calls = Calls(text, bracket)
    try:
        return Body(calls.listed(), calls.at)
    except UnreadableError as error:
        return Body((MalformedCall("invalid_call", str(error)),), begin)


def _marked_block(text: str, start: int, begin: int) -> Span:
    if _CLOSES.match(text, start):
        return unopened_block(text, start, begin)
    bracket = _BRACKET.match(text, begin)
    if bracket is None:
        body = Body((MalformedCall("invalid_call", "expected a list of calls"),), begin)
    else:
        body = _body(text, begin, bracket.end())
    return closed_block(text, (start, begin), body, _MARKS, _CLOSES)


def _bare_block(text: str, start: int, begin: int) -> Span:
    body = _body(text, begin, begin)
    if not all(isinstance(call, ToolCall) for call in body.calls):
        return Span("said", start, begin)
    return Span("block", start, body.stop, calls=body.calls)


def _marked(message: Message) -> str:
    calls = f"{OPEN}{_listed(message.tool_calls)}{CLOSE}" if message.tool_calls else ""
    return message.content + calls


def _bare(message: Message) -> str:
    calls = _listed(message.tool_calls) if message.tool_calls else ""
    return f"{message.content}\n{calls}" if message.content and calls else message.content + calls


LFM2 = BlockDialect(
    "lfm2",
    Grammar(_MARKS.pattern, _marked_block, think="<think>", thought="</think>"),
    spoken_in=lambda template: OPEN in template,
    said_by=_marked,
)
PYTHONIC = BlockDialect(
    "pythonic",
    Grammar(_LINE, _bare_block, think="<think>", thought="</think>", lead="\n"),
    spoken_in=lambda template: _SHOWN.search(template) is not None,
    said_by=_bare,
)

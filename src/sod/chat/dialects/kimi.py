"""Kimi K2: `ID`, of the form `functions.NAME:NUMBER`, and JSON arguments between marks of their own.

All calls of a turn stand between two more marks. Thoughts stand between `<think>` marks. The rule for a turn is that of
`blocks`.
"""

from __future__ import annotations

import re

from sod.chat.dialects.block_dialect import BlockDialect
from sod.chat.dialects.blocks import Body, Grammar, Span, closed_block, unopened_block
from sod.chat.dialects.json_calls import call_of, in_json, json_reader
from sod.records import MalformedCall, Message

CALLS, CALLS_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
CALL, ARGUMENTS, CALL_END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
_OPEN = "|".join([rf"{re.escape(CALLS)}\s*{re.escape(CALL)}", re.escape(CALL), re.escape(CALLS)])
_CLOSE = rf"{re.escape(CALL_END)}(?:\s*{re.escape(CALLS_END)})?|{re.escape(CALLS_END)}"
_MARKS = re.compile(f"{_OPEN}|{_CLOSE}")
_CLOSES = re.compile(_CLOSE)
_HEADER = re.compile(rf'\s*+((?:functions\.)?([^\s<":]++)(?::[0-9]++)?)\s*+({re.escape(ARGUMENTS)})')
_JSON = json_reader("<")


def _said(message: Message) -> str:
    calls = []
    for number, call in enumerate(message.tool_calls):
        called = _HEADER.fullmatch(f"{call.id}{ARGUMENTS}") if call.id else None
        call_id = call.id if called and called.group(2) == call.name else f"functions.{call.name}:{number}"
        calls.append(f"{CALL}{call_id}{ARGUMENTS}{in_json(call.arguments)}{CALL_END}")
    return f"{message.content}{CALLS}{''.join(calls)}{CALLS_END}" if calls else message.content


def _block(text: str, start: int, begin: int) -> Span:
    if _CLOSES.match(text, start):
        return unopened_block(text, start, begin)
    return closed_block(text, (start, begin), _body(text, begin), _MARKS, _CLOSES)


def _body(text: str, begin: int) -> Body:
    header = _HEADER.match(text, begin)
    if header is None:
        return Body((MalformedCall("invalid_call", f"expected functions.NAME:NUMBER and {ARGUMENTS}"),), begin)
    decoded = _JSON(text, header.end())
    if decoded.failure is not None:
        return Body((decoded.failure,), begin, (header.span(3),))
    return Body((call_of(header.group(2), decoded.value),), decoded.stop, (header.span(3),))


KIMI_K2 = BlockDialect(
    "kimi-k2",
    Grammar(_MARKS.pattern, _block, think="<think>", thought="</think>"),
    spoken_in=lambda template: CALL in template and ARGUMENTS in template,
    said_by=_said,
)

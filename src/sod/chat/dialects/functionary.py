"""Functionary 3.1: `<function=NAME>{ARGUMENTS}</function>`, and `<|python_tag|>{ARGUMENTS}` for a tool named `python`.

The rule for a turn is that of `blocks`; why not `transformers.parse_response` is said in `json_calls`.
"""

from __future__ import annotations

import re

from sod.chat.dialects.block_dialect import BlockDialect
from sod.chat.dialects.blocks import Body, Call, Grammar, Span, closed_block, unopened_block
from sod.chat.dialects.json_calls import call_of, in_json, json_reader
from sod.records import Message, ToolCall

PYTHON, PYTHON_TAG = "python", "<|python_tag|>"
_CLOSE = "</function>"
_CLOSES = re.compile(_CLOSE)
_NAMED = re.compile(r"<function=([^<>\n]+)>")
_MARKS = re.compile(rf"<function=[^<>\n]+>|{_CLOSE}|{re.escape(PYTHON_TAG)}")
_JSON = json_reader("<")


def _said(message: Message) -> str:
    return message.content + "".join(map(_call_text, message.tool_calls))


def _call_text(call: ToolCall) -> str:
    arguments = in_json(call.arguments)
    return f"{PYTHON_TAG}{arguments}" if call.name == PYTHON else f"<function={call.name}>{arguments}{_CLOSE}"


def _block(text: str, start: int, begin: int) -> Span:
    if _CLOSES.match(text, start):
        return unopened_block(text, start, begin)
    named = _NAMED.match(text, start)
    decoded = _JSON(text, begin)
    calls: tuple[Call, ...] = (decoded.failure or call_of(named[1] if named else PYTHON, decoded.value),)
    if named is None:
        return Span("block", start, decoded.stop, ((start, begin),), calls)
    return closed_block(text, (start, begin), Body(calls, decoded.stop), _MARKS, _CLOSES)


FUNCTIONARY = BlockDialect(
    "functionary3.1",
    Grammar(_MARKS.pattern, _block, think="<think>", thought="</think>"),
    spoken_in=lambda template: "<function=" in template and PYTHON_TAG in template and _CLOSE in template,
    said_by=_said,
)

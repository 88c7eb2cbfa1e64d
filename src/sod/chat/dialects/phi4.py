"""Phi-4-mini: a JSON list of calls between `<|tool_call|>` marks; thoughts between `<think>` marks (Phi-4 reasoning).

The rule for a turn is that of `blocks`.
"""

from __future__ import annotations

import re

from sod.chat.dialects.block_dialect import BlockDialect
from sod.chat.dialects.blocks import Body, Grammar, Span, closed_block, unopened_block
from sod.chat.dialects.json_calls import as_calls, in_json, json_reader
from sod.records import Message, ToolCall

OPEN, CLOSE = "<|tool_call|>", "<|/tool_call|>"
_CLOSES = re.compile(re.escape(CLOSE))
_MARKS = re.compile(f"{re.escape(OPEN)}|{re.escape(CLOSE)}")
_JSON = json_reader("<")


def _said(message: Message) -> str:
    listed = ", ".join(map(_object_text, message.tool_calls))
    return f"{message.content}{OPEN}[{listed}]{CLOSE}" if listed else message.content


def _object_text(call: ToolCall) -> str:
    return in_json({"name": call.name, "arguments": dict(call.arguments)})


def _block(text: str, start: int, begin: int) -> Span:
    if _CLOSES.match(text, start):
        return unopened_block(text, start, begin)
    decoded = _JSON(text, begin)
    calls = as_calls(decoded.value) if decoded.failure is None else (decoded.failure,)
    return closed_block(text, (start, begin), Body(calls, decoded.stop), _MARKS, _CLOSES)


_GRAMMAR = Grammar(_MARKS.pattern, _block, think="<think>", thought="</think>")
PHI4 = BlockDialect(
    "phi4",
    _GRAMMAR,
    spoken_in=lambda template: OPEN in template and CLOSE in template,  # Granite has the first alone
    said_by=_said,
)

"""Calls as Python writes them, on a line by themselves and without marks: Llama 3.2 and 4, ToolACE and others.

Answers may begin with a bracket, too, so a line is a block only if it begins with a list of nothing but calls; what
cannot be read so is said. For the list see `pythonic`, for the rest of a turn `blocks`.
"""

from __future__ import annotations

import re

from sod.chat.dialects.block_dialect import BlockDialect
from sod.chat.dialects.blocks import Grammar, Span
from sod.chat.dialects.pythonic import CallReader, NotACallError, call_text
from sod.records import Message, ToolCall

_LINE = r"(?:(?<=\n)|(?<=</think>)|\A)\[(?=[^\W0-9][\w.-]*+\()"
_SHOWN = re.compile(r"\[\w+\(\w+=\w+")  # how these templates show a call to the model


def _said(message: Message) -> str:
    calls = f"[{', '.join(map(call_text, message.tool_calls))}]" if message.tool_calls else ""
    return f"{message.content}\n{calls}" if message.content and calls else message.content + calls


def _block(text: str, start: int, begin: int) -> Span:
    reader = CallReader(text, start)
    try:
        calls = reader.calls()
    except NotACallError:
        calls = ()
    if not calls or not all(isinstance(call, ToolCall) for call in calls):
        return Span("said", start, begin)
    return Span("block", start, reader.at, calls=calls)


PYTHON_LINES = BlockDialect(
    "python-lines",
    Grammar(_LINE, _block, think="<think>", thought="</think>", lead="\n"),
    spoken_in=lambda template: _SHOWN.search(template) is not None,
    said_by=_said,
    inside="\n",
    behind="\n\n",
)

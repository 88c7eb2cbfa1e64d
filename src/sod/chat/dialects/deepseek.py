"""DeepSeek V3, R1 and V3.1: JSON arguments between marks of their own, thoughts between `<think>` and `</think>`.

V3 and R1 write `function`, the name and a fenced JSON, V3.1 the name and plain JSON; what is read may be either. V3.2
and V4 write other calls: see `invoked`. The rule for a turn is that of `blocks`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from sod.chat.dialects.block_dialect import BlockDialect
from sod.chat.dialects.blocks import Body, Grammar, Span, closed_block, unopened_block
from sod.chat.dialects.json_calls import call_of, in_json, json_reader
from sod.records import MalformedCall, Message, ToolCall


def _mark(words: str) -> str:
    bar, joint = "\uff5c", "\u2581"  # a wide bar, and what SentencePiece writes for a space
    return f"<{bar}{words.replace(' ', joint)}{bar}>"


CALLS, CALLS_END = _mark("tool calls begin"), _mark("tool calls end")
CALL, CALL_END, SEP = _mark("tool call begin"), _mark("tool call end"), _mark("tool sep")
_OPEN = rf"{CALLS}\s*{CALL}|{CALL}|{CALLS}"
_CLOSE = rf"{CALL_END}(?:\s*{CALLS_END})?|{CALLS_END}"
_MARKS = re.compile(f"{_OPEN}|{_CLOSE}")
_CLOSES = re.compile(_CLOSE)
_FENCED = re.compile(rf'\w*+({SEP})([^\n<"]++)\n```(?:json)?\n')
_PLAIN = re.compile(rf'\s*+([^\n<"]++)({SEP})')
_FENCE_END = re.compile(r"\s*+```")
_JSON = json_reader("<")


def _said_fenced(message: Message) -> str:
    return _said(message, "\n", lambda call: f"function{SEP}{call.name}\n```json\n{in_json(call.arguments)}\n```")


def _said_plain(message: Message) -> str:
    return _said(message, "", lambda call: f"{call.name}{SEP}{in_json(call.arguments)}")


def _said(message: Message, joint: str, written: Callable[[ToolCall], str]) -> str:
    calls = joint.join(f"{CALL}{written(call)}{CALL_END}" for call in message.tool_calls)
    return f"{message.content}{CALLS}{calls}{CALLS_END}" if calls else message.content


def _block(text: str, start: int, begin: int) -> Span:
    if _CLOSES.match(text, start):
        return unopened_block(text, start, begin)
    return closed_block(text, (start, begin), _body(text, begin), _MARKS, _CLOSES)


def _body(text: str, begin: int) -> Body:
    fenced, plain = _FENCED.match(text, begin), _PLAIN.match(text, begin)
    header = fenced or plain
    if header is None:
        return Body((MalformedCall("invalid_call", f"expected a name and {SEP}"),), begin)
    name, sep = (header.group(2), header.span(1)) if fenced else (header.group(1), header.span(2))
    decoded = _JSON(text, header.end())
    if decoded.failure is not None:
        return Body((decoded.failure,), begin, (sep,))
    fence = _FENCE_END.match(text, decoded.stop) if fenced else None
    return Body((call_of(name, decoded.value),), fence.end() if fence else decoded.stop, (sep,))


_GRAMMAR = Grammar(_MARKS.pattern, _block, think="<think>", thought="</think>")
DEEPSEEK_V3 = BlockDialect(
    "deepseek-v3",
    _GRAMMAR,
    spoken_in=lambda template: CALLS in template and "```" in template,
    said_by=_said_fenced,
    inside="\n",
    behind="\n\n",
)
DEEPSEEK_V31 = replace(
    DEEPSEEK_V3,
    name="deepseek-v31",
    spoken_in=lambda template: CALLS in template and "```" not in template,
    said_by=_said_plain,
    inside="",
    behind="",
)

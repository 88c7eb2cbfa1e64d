"""Gemma 3, and any model whose template shows no tools: JSON calls in fences, as Google describes it for Gemma.

A call is a fence of `tool_code` around `{"name": NAME, "parameters": {ARGUMENTS}}`; our template
(`templates/told.jinja`) says so to the model in the first user message. Thoughts stand between `<think>` marks, for
models that write them (DeepSeek-R1-Distill). The rule for a turn is that of `blocks`.
"""

from __future__ import annotations

import re

from sod.chat.dialects.block_dialect import BlockDialect
from sod.chat.dialects.blocks import Body, Call, Grammar, Span, closed_block
from sod.chat.dialects.json_calls import as_calls, in_json, json_reader
from sod.records import Message, ToolCall

OPEN, CLOSE = "```tool_code", "```"
_OPEN = rf"{OPEN}\b"
_FENCES = re.compile(CLOSE)
_CLOSES = re.compile(f"(?!{OPEN}){CLOSE}")
_JSON = json_reader(OPEN)


def _said(message: Message) -> str:
    calls = "\n".join(map(_call_text, message.tool_calls))
    return f"{message.content}\n{calls}" if message.content and calls else message.content + calls


def _call_text(call: ToolCall) -> str:
    return f"{OPEN}\n{in_json({'name': call.name, 'parameters': dict(call.arguments)})}\n{CLOSE}"


def _block(text: str, start: int, begin: int) -> Span:
    decoded = _JSON(text, begin)
    calls: tuple[Call, ...] = (decoded.failure,) if decoded.failure else as_calls(decoded.value, _key(decoded.value))
    return closed_block(text, (start, begin), Body(calls, decoded.stop), _FENCES, _CLOSES)


def _key(value: object) -> str:
    """The word for arguments: models often write the one that they know from elsewhere."""
    first = value[0] if isinstance(value, list) and value else value
    return "arguments" if isinstance(first, dict) and "parameters" not in first else "parameters"


GEMMA3 = BlockDialect(
    "gemma3",
    Grammar(_OPEN, _block, think="<think>", thought="</think>", lead="\n"),
    spoken_in=lambda template: OPEN in template,
    said_by=_said,
    inside="\n",
    behind="\n\n",
)

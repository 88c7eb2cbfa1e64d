"""Gemma 4 and FunctionGemma: `call:NAME{ARGUMENTS}` between marks, the arguments by `gemma_values`.

The rule for a turn is that of `blocks`.
"""

from __future__ import annotations

import re

from sod.chat.dialects.block_dialect import BlockDialect
from sod.chat.dialects.blocks import Body, Grammar, Span, closed_block, unopened_block
from sod.chat.dialects.gemma_values import UnreadableError, Values, written
from sod.chat.dialects.json_calls import call_of
from sod.records import MalformedCall, Message

_CALL = re.compile(r"\s*+call:([^\s{}<]++)\s*+\{")


def _body(text: str, begin: int, quote: str) -> Body:
    header = _CALL.match(text, begin)
    if header is None:
        return Body((MalformedCall("invalid_call", "expected call:NAME{ARGUMENTS}"),), begin)
    values = Values(text, header.end(), quote)
    try:
        arguments = values.object(0)
    except UnreadableError as error:
        return Body((MalformedCall("invalid_arguments", str(error)),), begin)
    return Body((call_of(header.group(1), arguments),), values.at, tuple(values.frames))


def _dialect(name: str, marks: tuple[str, str, str], think: str = "", thought: str = "") -> BlockDialect:
    """`marks` open a call, close it, and stand around strings."""
    opening, closing, quote = marks
    either = re.compile(f"{re.escape(opening)}|{re.escape(closing)}")
    closes = re.compile(re.escape(closing))

    def block(text: str, start: int, begin: int) -> Span:
        if closes.match(text, start):
            return unopened_block(text, start, begin)
        return closed_block(text, (start, begin), _body(text, begin, quote), either, closes)

    def said(message: Message) -> str:
        calls = (f"{opening}call:{c.name}{written(c.arguments, quote)}{closing}" for c in message.tool_calls)
        return message.content + "".join(calls)

    return BlockDialect(
        name, Grammar(either.pattern, block, think, thought), lambda template: opening in template, said
    )


GEMMA4 = _dialect("gemma4", ("<|tool_call>", "<tool_call|>", '<|"|>'), "<|channel>thought\n", "<channel|>")
FUNCTION_GEMMA = _dialect("function-gemma", ("<start_function_call>", "<end_function_call>", "<escape>"))

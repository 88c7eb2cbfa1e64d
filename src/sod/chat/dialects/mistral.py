"""Mistral: calls behind `[TOOL_CALLS]`, thoughts between `[THINK]` and `[/THINK]`.

Tokenizers up to v7 write a JSON list, v11 a name, the call's id and JSON arguments, v13 a name and the arguments, each
call behind a mark of its own; what is read may be any of these. No mark ends a call: it ends with its JSON, and one
that cannot be read at the next `[TOOL_CALLS]`. The rule for the rest of a turn is that of `blocks`.
"""

from __future__ import annotations

import re
from dataclasses import replace

from sod.chat.dialects.block_dialect import BlockDialect
from sod.chat.dialects.blocks import Call, Grammar, Span
from sod.chat.dialects.json_calls import as_calls, call_of, in_json, json_reader
from sod.records import MalformedCall, Message, ToolCall

CALLS, CALL_ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_OPEN = re.escape(CALLS)
_MARKS = re.compile(_OPEN)
_LIST = re.compile(r"\s*+[\[{]")
_HEADER = re.compile(rf'\s*+([^\[\]{{}}"\s]++)(?:({re.escape(CALL_ID)})([^\[\]{{}}"\s]*+))?\s*+({re.escape(ARGS)})')
_JSON = json_reader(_OPEN)


def _listed(message: Message) -> str:
    objects = ", ".join(map(_object_text, message.tool_calls))
    return f"{message.content}{CALLS}[{objects}]" if objects else message.content


def _named_with_ids(message: Message) -> str:
    return message.content + "".join(_named_text(call, call.id) for call in message.tool_calls)


def _named(message: Message) -> str:
    return message.content + "".join(_named_text(call, None) for call in message.tool_calls)


def _named_text(call: ToolCall, call_id: str | None) -> str:
    return f"{CALLS}{call.name}{f'{CALL_ID}{call_id}' if call_id else ''}{ARGS}{in_json(call.arguments)}"


def _object_text(call: ToolCall) -> str:
    named = {"name": call.name, "arguments": dict(call.arguments)}
    return in_json(named | {"id": call.id} if call.id else named)


def _block(text: str, start: int, begin: int) -> Span:
    mark = (start, begin)
    header = _HEADER.match(text, begin)
    if header is None and not _LIST.match(text, begin):
        return _unreadable(text, mark, (), MalformedCall("invalid_call", f"expected a list, or a name and {ARGS}"))
    frames = tuple(span for span in (header.span(2), header.span(4)) if span[0] >= 0) if header else ()
    decoded = _JSON(text, header.end() if header else begin)
    if decoded.failure is not None:
        return _unreadable(text, mark, frames, decoded.failure)
    calls: tuple[Call, ...] = as_calls(decoded.value)
    if header:
        calls = (call_of(header.group(1), decoded.value, header.group(3) or None),)
    return Span("block", start, decoded.stop, (mark, *frames), calls)


def _unreadable(text: str, mark: tuple[int, int], frames: tuple[tuple[int, int], ...], why: MalformedCall) -> Span:
    following = _MARKS.search(text, mark[1])
    return Span("block", mark[0], following.start() if following else len(text), (mark, *frames), (why,))


_GRAMMAR = Grammar(_OPEN, _block, think="[THINK]", thought="[/THINK]")
MISTRAL_V3 = BlockDialect(
    "mistral-v3",
    _GRAMMAR,
    spoken_in=lambda template: CALLS in template and ARGS not in template,
    said_by=_listed,
)
MISTRAL_V11 = replace(
    MISTRAL_V3,
    name="mistral-v11",
    spoken_in=lambda template: CALLS in template and ARGS in template and CALL_ID in template,
    said_by=_named_with_ids,
)
MISTRAL_V13 = replace(
    MISTRAL_V3,
    name="mistral-v13",
    spoken_in=lambda template: CALLS in template and ARGS in template and CALL_ID not in template,
    said_by=_named,
)

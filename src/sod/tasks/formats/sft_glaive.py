"""Glaive's function-calling rows: `system` with the functions in it, `chat` with the whole conversation, both texts."""

from __future__ import annotations

import json
import re
from typing import Any

from sod.tasks.base import Conversation
from sod.tasks.formats.base import BadRowError, Fields, Row, Shape
from sod.tasks.formats.conversation import made
from sod.tasks.formats.messages import read_messages
from sod.tasks.formats.tools import read_tools

_SPEAKER = re.compile(r"^(USER|ASSISTANT|FUNCTION RESPONSE):", re.MULTILINE)
_CALL = "<functioncall>"
_QUOTED = re.compile(r""""arguments"\s*:\s*'""")
_ACCESS = re.compile(r"\s*with access to the following functions\. Use them if required\s*-?\s*$")
_DECODER = json.JSONDecoder()


def _read(fields: Fields, name: str) -> Conversation:
    system, tools = _system(fields.use("system"))
    items = [] if system is None else [{"role": "system", "content": system}]
    chat = fields.use("chat")
    if not isinstance(chat, str):
        raise BadRowError("no chat")
    items += _items(chat)
    return made(fields, name, read_messages(items, "chat"), tools)


def _items(chat: str) -> list[Row]:
    parts = _SPEAKER.split(chat)
    if parts[0].strip():
        raise BadRowError("chat begins with neither USER: nor ASSISTANT:")
    items = []
    for speaker, text in zip(parts[1::2], parts[2::2], strict=True):
        said = text.replace("<|endoftext|>", "").strip()
        items.append(_assistant(said) if speaker == "ASSISTANT" else {"role": _ROLES[speaker], "content": said})
    return items


_ROLES = {"USER": "user", "FUNCTION RESPONSE": "tool"}


def _assistant(text: str) -> Row:
    said, mark, call = text.partition(_CALL)
    if not mark:
        return {"role": "assistant", "content": text}
    return {"role": "assistant", "content": said.strip(), "tool_calls": _quoted(call.strip())}


def _quoted(call: str) -> str:
    """A call as JSON: its arguments stand in single quotes, within which their JSON is not escaped."""
    opened = _QUOTED.search(call)
    body = call.removesuffix("}").rstrip()
    if opened is None or not body.endswith("'") or len(body) <= opened.end():
        return call
    return f"{call[: opened.end() - 1]}{json.dumps(body[opened.end() : -1])}}}"


def _system(text: Any) -> tuple[str | None, tuple[Row, ...]]:
    """What the system says, and the functions that it lists, one JSON object below the other."""
    said = str(text or "").removeprefix("SYSTEM:").strip()
    start = said.find("{")
    if start < 0:
        return said or None, ()
    tools: list[Any] = []
    at = start
    while at < len(said) and said[at] == "{":
        try:
            value, at = _DECODER.raw_decode(said, at)
        except ValueError as error:
            raise BadRowError("a function that system lists is no JSON") from error
        tools.append(value)
        while at < len(said) and said[at].isspace():
            at += 1
    lead = _ACCESS.sub(".", said[:start].strip())
    rest = "\n".join(part for part in (lead, said[at:].strip()) if part)
    return rest or None, read_tools(tools, "system")


def _matches(row: Any) -> bool:
    chat = row.get("chat")
    return isinstance(chat, str) and _SPEAKER.match(chat.lstrip()) is not None


GLAIVE = Shape("glaive", _matches, _read)

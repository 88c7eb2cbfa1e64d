"""Glaive's function-calling rows: `system` with the functions in it, `chat` with the whole conversation, both texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sod.tasks.base import Conversation
from sod.tasks.formats.base import BadRowError, Fields, Row, Shape
from sod.tasks.formats.conversation import made
from sod.tasks.formats.glaive_text import functions_in, quoted_call
from sod.tasks.formats.messages import read_messages

_SPEAKER = re.compile(r"^(USER|ASSISTANT|FUNCTION RESPONSE):", re.MULTILINE)
_CALL = "<functioncall>"


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
    return {"role": "assistant", "content": said.strip(), "tool_calls": quoted_call(call.strip())}


def _system(text: Any) -> tuple[str | None, tuple[Row, ...]]:
    said, tools = functions_in(str(text or "").removeprefix("SYSTEM:").strip())
    return said or None, tools


def _matches(row: Mapping[str, Any]) -> bool:
    chat = row.get("chat")
    return isinstance(chat, str) and _SPEAKER.match(chat.lstrip()) is not None


GLAIVE = Shape("glaive", _matches, _read)

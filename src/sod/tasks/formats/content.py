"""What stands in the content of a message: a text, or blocks of texts, thoughts, calls and results."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, final

from sod.tasks.formats.base import BadRowError, Row
from sod.tasks.formats.calls import Call, call_id, read_call
from sod.tasks.formats.keyed_parts import typed

_TEXTS = frozenset({"text", "input_text", "output_text", "summary_text"})
_THOUGHTS = frozenset({"thinking", "reasoning", "reasoning_text", "reasoning_content"})
_CALLS = frozenset({"tool_use", "tool_call", "tool_calls", "function_call"})
_RESULTS = frozenset({"tool_result", "tool_response", "function_call_output"})
_SEEN_OR_HEARD = ("image", "video", "audio")
_MEDIA = (*_SEEN_OR_HEARD, "file", "document")
_VALUES = ("text", "value", "thinking", "reasoning", "content")
_OUTPUTS = ("content", "output", "result", "response", "value", "text")


@final
@dataclass
class Parts:
    """What a content holds. `text` is None where there is neither a text nor a block; results are `(call id, text)`."""

    text: str | None = None
    thoughts: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    results: list[tuple[str | None, str]] = field(default_factory=list)


def read_content(value: Any, role: str) -> Parts:
    """The parts of a message's content; texts of blocks are joined. Raises BadRowError, for media too."""
    if value is None:
        return Parts()
    if isinstance(value, str):
        return Parts(checked(value, role))
    blocks = [value] if isinstance(value, dict) else value
    if not isinstance(blocks, list):
        raise BadRowError(f"{role} message without text content")
    parts = Parts()
    texts: list[str] = []
    for block in blocks:
        _read_block(typed(block), role, parts, texts)
    parts.text = "".join(texts) if texts or not blocks else None
    return parts


def _read_block(block: Any, role: str, parts: Parts, texts: list[str]) -> None:
    if isinstance(block, str):
        texts.append(checked(block, role))
        return
    kind = _kind(block, role)
    if kind in _TEXTS:
        texts.append(_text_of(block, role))
    elif kind in _THOUGHTS:
        parts.thoughts.append(_text_of(block, role))
    elif kind in _CALLS:
        parts.calls.append(read_call(block.get("value", block)))
    elif kind in _RESULTS:
        output = next((block[key] for key in _OUTPUTS if block.get(key) is not None), None)
        parts.results.append((call_id(block), output_text(output)))
    else:
        raise BadRowError(f"{role} message with a part of an unknown type {kind!r}")


def _kind(block: Any, role: str) -> str:
    if not isinstance(block, dict):
        raise BadRowError(f"{role} message without text content")
    kind = block.get("type")
    kind = kind.replace("-", "_") if isinstance(kind, str) else None
    if kind is None:
        kind = next((word for word in ("text", *_MEDIA) if word in block), ", ".join(block))
    refuse_media(kind, f"{role} message")
    return kind


def refuse_media(kind: str, where: str) -> None:
    """Raises BadRowError where a name tells of images, audio or video."""
    medium = next((word for word in _MEDIA if word in kind), None)
    if medium:
        raise BadRowError(f"{where} with {kind!r}: only text can be read; leave such rows out")


def _text_of(block: Row, role: str) -> str:
    text = next((block[key] for key in _VALUES if isinstance(block.get(key), str)), None)
    if text is None:
        raise BadRowError(f"{role} message without text content")
    return checked(text, role)


def output_text(value: Any) -> str:
    """What a tool gave, as text: texts as they are, blocks joined, anything else as JSON. Raises BadRowError."""
    if value is None:
        return ""
    if isinstance(value, str):
        return checked(value, "tool")
    if isinstance(value, list) and value and all(_is_block(item) for item in value):
        text = read_content(value, "tool").text
        return "" if text is None else text
    try:
        return checked(json.dumps(value, ensure_ascii=False), "tool")
    except (TypeError, ValueError) as error:
        raise BadRowError("tool message whose content is neither text nor JSON") from error


def _is_block(item: Any) -> bool:
    kind = item.get("type") if isinstance(item, dict) else None
    return isinstance(kind, str) and (kind in _TEXTS or any(word in kind for word in _SEEN_OR_HEARD))


def checked(text: str, role: str) -> str:
    """The text. Raises BadRowError for a lone surrogate (JSON can spell one), which would fail at the tokenizer."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRowError(f"{role} message is not valid Unicode") from error
    return text

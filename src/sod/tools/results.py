"""What the model reads of a value that a tool returned, and how much of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from sod.records import ToolResult

Cut = Callable[[str], str]

_CHARS_PER_TOKEN = 64
"""More characters than a token of running text has: what lies beyond so many is cut without being counted."""


def cut_to_tokens(tokenizer: Any, limit: int) -> Cut:
    """Cuts a text to its first `limit` tokens as `tokenizer` (a fast one of transformers) counts, and says so there."""
    backend = tokenizer.backend_tokenizer

    def cut(text: str) -> str:
        head = text[: limit * _CHARS_PER_TOKEN]
        offsets = backend.encode(head, add_special_tokens=False).offsets
        if len(offsets) <= limit and len(head) == len(text):
            return text
        if len(offsets) > limit:
            head = head[: offsets[limit][0]]
        return f"{head}... [cut to {limit:,} tokens, {len(text):,} characters in all]"

    return cut


def text_of(value: Any) -> str:
    """The text of what a tool returned: a string as it is, JSON for numbers, truth values, lists and mappings.

    Raises TypeError for anything else.
    """
    if value is None:
        return "(no output)"
    if isinstance(value, str):
        # Half a surrogate pair is a string to Python and to no tokenizer.
        return value.encode("utf-8", "replace").decode("utf-8") or "(no output)"
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise TypeError(f"{type(value).__name__}, which is no text") from None


def tool_error(name: str, explanation: str, seconds: float = 0.0) -> ToolResult:
    """A tool error of that short name, in the words that the model reads."""
    return ToolResult(f"Error: {name}: {explanation}", name, seconds)

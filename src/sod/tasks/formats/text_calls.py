"""Calls, results and tools that stand in a row's texts, in the marks of Hermes and Qwen."""

from __future__ import annotations

import re
from typing import Any

from sod.chat.dialects import hermes
from sod.records import MalformedCall, Said
from sod.tasks.formats.base import BadRowError, Row
from sod.tasks.formats.calls import literal_or_none
from sod.tasks.formats.glaive_text import functions_in
from sod.tasks.formats.tools import read_tools
from sod.tasks.tables import json_or_none

_ANSWER, _ANSWERED = "<tool_response>", "</tool_response>"
_RESPONSE = re.compile(rf"{_ANSWER}\n?(.*?)\n?{_ANSWERED}", re.DOTALL)
_TOOLS, _TOOLS_END = "<tools>", "</tools>"
_QWEN = "# Tools\n\n"
"""How the part begins in which Qwen's template shows tools; it ends with an example of a call."""


def calls_in(text: str) -> Said | None:
    """What an assistant's text with calls says; None where there is no call in it, readable or not."""
    if hermes.OPEN not in text:
        return None
    said = hermes.read(text)
    if not said.calls or all(_is_stray(call) for call in said.calls):
        return None
    return said


def results_in(text: str) -> list[str]:
    """The results in a tool message, without the marks around each; the whole text where it has none."""
    bare = text.strip()
    if not (bare.startswith(_ANSWER) and bare.endswith(_ANSWERED)) or _RESPONSE.sub("", bare).strip():
        return [text]
    return _RESPONSE.findall(bare)


def tools_in(system: str) -> tuple[str, tuple[Row, ...]]:
    """`(the text without them, the tools that a system message lists)`: between <tools> marks, or as Glaive does."""
    start = system.find(_TOOLS)
    stop = system.find(_TOOLS_END, start)
    tools = _declared(system[start + len(_TOOLS) : stop]) if 0 <= start < stop else ()
    if not tools:
        return functions_in(system)
    stop += len(_TOOLS_END)
    shown = system.rfind(_QWEN, 0, start)
    example = system.find(hermes.CLOSE, stop)
    if shown >= 0 and example >= 0:
        start, stop = shown, example + len(hermes.CLOSE)
    return (system[:start].rstrip() + system[stop:]).strip(), tools


def _declared(text: str) -> tuple[Row, ...]:
    """The tools of a list in JSON or Python, or of one JSON object a line; none where the text is neither."""
    whole = json_or_none(text)
    values: Any = literal_or_none(text.strip()) if whole is None else whole
    if values is None:
        values = [json_or_none(line) for line in text.splitlines() if line.strip()]
    try:
        return read_tools(values)
    except BadRowError:
        return ()


def _is_stray(call: Any) -> bool:
    """A closing mark by itself, which is no attempt at a call."""
    return isinstance(call, MalformedCall) and call.error == "unopened_tool_call"

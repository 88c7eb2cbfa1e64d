"""Tools of conversations that stand in a file of their own: `data.tools`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sod.bounded import read_bounded
from sod.records import SodError
from sod.tasks.base import Conversation
from sod.tasks.formats.base import BadRowError, Row
from sod.tasks.formats.tools import read_tools
from sod.tasks.loaded import Loaded
from sod.tasks.tables import json_or_none

_BYTES = 16 * 1024**2


def with_lent_tools(loaded: Loaded[Conversation], path: str | None) -> Loaded[Conversation]:
    """The conversations, those that declare no tools with the tools of a JSON file. Raises SodError."""
    if path is None:
        return loaded
    tools = tools_file(path)
    return replace(loaded, items=[item if item.tools else replace(item, tools=tools) for item in loaded.items])


def tools_file(path: str) -> tuple[Row, ...]:
    """The function schemas in a JSON file: a list, or an object with the list under `tools`. Raises SodError."""
    try:
        text = read_bounded(Path(path), _BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SodError(f"data.tools={path}: cannot be read ({reason}); name a JSON file of function schemas") from error
    value = json_or_none(text)
    listed = value.get("tools", value) if isinstance(value, dict) else value
    try:
        tools = read_tools(listed, "the file")
    except BadRowError as error:
        raise SodError(f"data.tools={path}: {error}; it is a JSON list of function schemas") from error
    if not tools:
        raise SodError(f"data.tools={path}: holds no function schema; it is a JSON list of them")
    return tools

"""The values of a JSON file, however it is laid out.

A line each; a list; objects one after another, indented; or an object around the rows: `{"data": [...]}`, one list for
each split, or one object by id.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sod.bounded import bounded_memory
from sod.tasks.formats.columns import PROMPTS, holds
from sod.tasks.tables import LINE_CHARS, SPARE, json_or_none, most_bytes, text_of

Values = list[tuple[str, Any]]
"""Each value with how a message about it begins; None is no JSON."""

WRAPPERS = ("data", "rows", "examples", "instances", "samples", "items", "records", "problems", "questions", "tasks")
SPLITS = ("train", "validation", "test", "eval", "dev")
_IN_ROWS = (*PROMPTS, "conversations", "responses_create_params")
RETRIES = 100
"""How often reading goes on behind something that is no JSON; each time may take as long as the file."""


def json_values(path: Path, split: str = "train") -> Values:
    """Every value of a JSON or JSON-lines file. `split` is chosen where the file holds a list for each.

    Raises ValueError, RecursionError, MemoryError or OSError where the file cannot be read.
    """
    with bounded_memory(most_bytes(path) + SPARE):
        text = text_of(path)
        values = _values(text, is_lines=".jsonl" in path.suffixes or ".ndjson" in path.suffixes)
        only = values[0][1] if len(values) == 1 else None
        return _unwrapped(only, split) if isinstance(only, dict) else values


def conversation_column(value: Any) -> str | None:
    """What rows call such a value, which is a conversation by itself; None where it is none."""
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        return None
    columns = {"role": "messages", "from": "conversations"}
    return next((column for key, column in columns.items() if all(key in item for item in value)), None)


def _values(text: str, is_lines: bool) -> Values:
    # "\n" only: str.splitlines would also cut inside strings, at U+2028 and its like.
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        return []
    first = lines[0][1]
    if first.lstrip().startswith("[") and not (is_lines and len(lines) > 1 and json_or_none(first) is not None):
        whole = json.loads(text)
        return [("not", whole)] if conversation_column(whole) else [("not", value) for value in whole]
    if len(lines) > 1 and json_or_none(first) is None and _begins_with_an_object(text):
        return list(_one_after_another(text))
    return [(f"line {n} is not", _line_or_none(line)) for n, line in lines]


def _line_or_none(line: str) -> Any:
    """A line's value; None where it is no JSON, or so long that it is no row."""
    return json_or_none(line) if len(line) <= LINE_CHARS else None


def _begins_with_an_object(text: str) -> bool:
    """Whether an object begins the text that goes on over several lines."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, _next(text, 0))
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "\n" in text[:end].strip()


def _one_after_another(text: str) -> Iterator[tuple[str, Any]]:
    decoder = json.JSONDecoder()
    at, line, failures = _next(text, 0), 1, 0
    counted = 0
    while at < len(text):
        line, counted = line + text.count("\n", counted, at), at
        where = f"what begins on line {line} is not"
        try:
            value, at = decoder.raw_decode(text, at)
            yield where, value
        except (ValueError, RecursionError):
            yield where, None
            failures += 1
            following = text.find("\n{", at + 1)
            at = len(text) if following < 0 or failures >= RETRIES else following
        at = _next(text, at)


def _next(text: str, at: int) -> int:
    """Where something stands again; objects may have a comma between them."""
    while at < len(text) and text[at] in " \t\r\n,":
        at += 1
    return at


def _unwrapped(value: dict[str, Any], split: str) -> Values:
    """The rows within an object that is the whole file; the object where it is a row itself."""
    if holds(value, _IN_ROWS):
        return [("not", value)]
    for name in (split, *WRAPPERS, *SPLITS):
        inner = value.get(name)
        if isinstance(inner, list) and any(isinstance(row, dict) for row in inner):
            return [("not", row) for row in inner]
    if len(value) > 1 and all(isinstance(row, dict) and holds(row, _IN_ROWS) for row in value.values()):
        return [("not", {"id": key, **row}) for key, row in value.items()]
    return [("not", value)]

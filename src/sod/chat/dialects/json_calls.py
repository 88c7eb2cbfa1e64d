"""Calls as JSON, for all dialects that write them so: a value out of a text, a call out of a value.

`transformers.parse_response` ends a call at the first mark that closes it, also where that stands in a string of the
arguments, and raises for a call that cannot be read; so calls are read here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from sod.records import MalformedCall, ToolCall

MAX_DEPTH = 64  # of a call's JSON: what is recorded must be writable by anyone's JSON writer
_SPACE = re.compile(r"[ \t\n\r]*")  # JSON's
_DECODER = json.JSONDecoder()
_HOLDS = (dict, list)  # JSON values that hold others


@final
@dataclass(frozen=True)
class Decoded:
    """A JSON value of a text and where it ends: where it begins, with a `failure`, if it cannot be read."""

    value: Any
    stop: int
    failure: MalformedCall | None = None


def json_reader(mark: str) -> Callable[[str, int], Decoded]:
    """What decodes the JSON value at a place of a text, white space before it left out.

    `mark` is a regular expression for what opens a call of the dialect; it must match nothing that JSON has outside
    its strings. Only the stretch is decoded that could be JSON by its quotes alone: no mark and no backslash outside
    a string. That bounds the time: of two attempts that read the same stretch of text, each begun behind a mark, one
    takes for strings what the other takes for the space between them, so that the next mark ends one of the two.
    Nothing is read more than twice.
    """
    plain = rf'(?:(?!{mark})[^"\\])*+'
    stretch = re.compile(rf'{plain}(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"{plain})*+', re.DOTALL)

    def read(text: str, begin: int) -> Decoded:
        found = stretch.match(text, begin)
        body = found.group() if found else ""
        try:
            value, length = _DECODER.raw_decode(body, after_space(body, 0))
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "the value is too deep or too long")
            return Decoded(None, begin, MalformedCall("invalid_json", reason))
        return Decoded(value, begin + length)

    return read


def after_space(text: str, at: int) -> int:
    """Where the white space ends that begins at `at`."""
    space = _SPACE.match(text, at)
    return space.end() if space else at


def as_call(value: Any, arguments: str = "arguments", name: str = "name") -> ToolCall | MalformedCall:
    """The call that an object makes; `name` and `arguments` are its keys, and `id`, if it is there, is the call's."""
    if not isinstance(value, dict):
        return MalformedCall("invalid_call", f"expected a JSON object with {name} and {arguments}")
    if not isinstance(value.get(name), str):
        return MalformedCall("invalid_call", f"{name} must be a string")
    call_id = value.get("id")
    return call_of(value[name], value.get(arguments), call_id if isinstance(call_id, str) else None, arguments)


def as_calls(value: Any, arguments: str = "arguments", name: str = "name") -> tuple[ToolCall | MalformedCall, ...]:
    """The calls that a list of objects makes, or one object; an empty list is a failure."""
    if not isinstance(value, list):
        return (as_call(value, arguments, name),)
    if not value:
        return (MalformedCall("invalid_call", "the list of calls is empty"),)
    return tuple(as_call(item, arguments, name) for item in value)


def call_of(
    name: str, arguments: Any, call_id: str | None = None, called: str = "arguments"
) -> ToolCall | MalformedCall:
    """A call of what was read; `called` is the dialect's word for arguments."""
    if not isinstance(arguments, dict):
        return MalformedCall("invalid_call", f"{called} must be a JSON object")
    if deeper_than(arguments, MAX_DEPTH):
        return MalformedCall("invalid_json", f"nested deeper than {MAX_DEPTH}")
    return ToolCall(name, arguments, call_id)


def in_json(value: Any) -> str:
    """A JSON value as chat templates write it."""
    return json.dumps(dict(value) if isinstance(value, Mapping) else value, ensure_ascii=False)


def deeper_than(value: Any, limit: int) -> bool:
    """Whether a JSON value nests deeper than `limit`; level by level, as recursion is what must not run out."""
    level = [value] if isinstance(value, _HOLDS) else []
    for _ in range(limit - 1):
        inner: list[Any] = []
        for parent in level:
            children = parent.values() if isinstance(parent, dict) else parent
            inner += [child for child in children if isinstance(child, _HOLDS)]
        if not inner:
            return False
        level = inner
    return any(level)  # those have children

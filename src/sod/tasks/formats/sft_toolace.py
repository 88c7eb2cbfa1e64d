"""ToolACE's rows: functions in the system text, calls as `[Get Weather(city="Oslo"), ...]` in the assistant's."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sod.tasks.base import Conversation
from sod.tasks.formats.base import BadRowError, Fields, Row, Shape
from sod.tasks.formats.conversation import made
from sod.tasks.formats.messages import read_messages
from sod.tasks.formats.tools import read_tools

_ASKED = "Put it in the format of [func1("
_NAME = re.compile(r"[^()\[\]{}=,'\"]+")
_STRING = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_LITERALS = {"true": True, "false": False, "null": None, "none": None}
_CALL_CHARS = 20_000
_DECODER = json.JSONDecoder()


def _read(fields: Fields, name: str) -> Conversation:
    system, conversations = fields.use("system"), fields.use("conversations")
    if not isinstance(system, str) or not isinstance(conversations, list):
        raise BadRowError("no system text, or no conversations")
    tools = _tools(system)
    items = []
    for item in conversations:
        said = item.get("value") if isinstance(item, dict) else None
        calls = _calls(said) if isinstance(said, str) and item.get("from") == "assistant" else None
        items.append(item if calls is None else {"role": "assistant", "content": "", "tool_calls": calls})
    return made(fields, name, read_messages(items, "conversations", fields), tools)


def _tools(system: str) -> tuple[Row, ...]:
    """The functions that the system text lists; the rest of it says how to write calls, which the template does."""
    start = system.find("[{")
    try:
        value, _ = _DECODER.raw_decode(system, start) if start >= 0 else ([], 0)
    except ValueError as error:
        raise BadRowError("the functions that system lists are no JSON") from error
    return read_tools(value, "system")


def _calls(text: str) -> list[Row] | None:
    """The calls of an assistant's text; None for one that is no list of calls."""
    body = text.strip()
    if not (body.startswith("[") and body.endswith(")]")) or len(body) > _CALL_CHARS:
        return None
    try:
        return list(_each(body[1:-1].rstrip()))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _each(body: str) -> Iterator[Row]:
    at = 0
    while at < len(body):
        opened = body.find("(", at)
        name = body[at : max(at, opened)].strip().removeprefix(",").strip()
        if not _NAME.fullmatch(name):
            raise ValueError("no call")
        at = _closing(body, opened + 1)
        call = ast.parse(f"f({body[opened + 1 : at - 1]})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(word.arg is None for word in call.keywords):
            raise ValueError("not by keyword")
        arguments = {word.arg: _value(word.value) for word in call.keywords}
        yield {"name": name, "arguments": arguments}


def _closing(body: str, at: int) -> int:
    """Where the parenthesis that is open at `at` has been closed."""
    depth = 1
    while at < len(body):
        if body[at] in "'\"":
            string = _STRING.match(body, at)
            if string is None:
                break
            at = string.end()
            continue
        depth += {"(": 1, ")": -1}.get(body[at], 0)
        at += 1
        if not depth:
            return at
    raise ValueError("unclosed")


def _value(node: ast.expr) -> Any:
    """A literal, in which JSON's words for true, false and null may stand."""
    if isinstance(node, ast.Name) and node.id.lower() in _LITERALS:
        return _LITERALS[node.id.lower()]
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [None if key is None else ast.literal_eval(key) for key in node.keys]
        return {str(key): _value(value) for key, value in zip(keys, node.values, strict=True)}
    value = ast.literal_eval(node)
    if not isinstance(value, str | int | float | bool | type(None)):
        raise ValueError("no JSON value")
    return value


def _matches(row: Mapping[str, Any]) -> bool:
    system = row.get("system")
    return isinstance(row.get("conversations"), list) and isinstance(system, str) and _ASKED in system


TOOLACE = Shape("toolace", _matches, _read)

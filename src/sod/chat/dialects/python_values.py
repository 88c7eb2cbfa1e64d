"""Calls as a list of Python's: `[NAME(KEY=VALUE, ...), ...]`, the values literals.

JSON's `true`, `false` and `null` are read, too, and a word without quotes is its own text, as templates write strings.
Positional arguments have no name, so a call with one cannot be read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from sod.chat.dialects.json_calls import MAX_DEPTH
from sod.records import ToolCall

_SPACE = re.compile(r"\s*+")
_NAME = re.compile(r"[^\W\d][\w.-]*+")
_WORD = re.compile(r"[\w.+-]++")
_STRING = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*+"""' + r"|'''(?:[^'\\]|\\.|'(?!''))*+'''"
    r'|"[^"\\]*+(?:\\.[^"\\]*+)*+"' + r"|'[^'\\]*+(?:\\.[^'\\]*+)*+'",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": "", "\\": "\\", "'": "'", '"': '"'}
_WORDS = {"None": None, "null": None, "True": True, "true": True, "False": False, "false": False}


class UnreadableError(Exception):
    """There is no call or value where one should stand; the message is for the model."""


@final
@dataclass
class Calls:
    """Reads calls out of `text` from `at` on."""

    text: str
    at: int

    def listed(self) -> tuple[ToolCall, ...]:
        """The calls between two brackets, the first of them behind us; at least one."""
        found = [self._call()]
        while not self._next_is("]"):
            self._expect(",")
            found.append(self._call())
        return tuple(found)

    def _call(self) -> ToolCall:
        name = self._match(_NAME)
        if not name or not self._next_is("("):
            raise UnreadableError("expected NAME(KEY=VALUE)")
        arguments: dict[str, Any] = {}
        while not self._next_is(")"):
            if arguments:
                self._expect(",")
            arguments |= self._argument()
        return ToolCall(name, arguments)

    def _argument(self) -> dict[str, Any]:
        if self._next_is("**"):
            self._expect("{")
            return self._object(1)
        key = self._match(_NAME)
        if not key or not self._next_is("="):
            raise UnreadableError("expected KEY=VALUE")
        return {key: self._value(1)}

    def _value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise UnreadableError(f"nested deeper than {MAX_DEPTH}")
        if self._next_is("["):
            return self._items("]", depth)
        if self._next_is("("):
            return self._items(")", depth)
        if self._next_is("{"):
            return self._object(depth)
        quoted = self._match(_STRING)
        return _unquoted(quoted) if quoted else self._word()

    def _items(self, end: str, depth: int) -> list[Any]:
        found: list[Any] = []
        while not self._next_is(end):
            if found:
                self._expect(",")
            found.append(self._value(depth + 1))
        return found

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self._next_is("}"):
            if found:
                self._expect(",")
            key = self._match(_STRING)
            if not key or not self._next_is(":"):
                raise UnreadableError("expected a key in quotes, and a value")
            found[_unquoted(key)] = self._value(depth + 1)
        return found

    def _word(self) -> Any:
        word = self._match(_WORD)
        if word in _WORDS:
            return _WORDS[word]
        if _NAME.fullmatch(word):
            return word
        try:
            return json.loads(word)
        except ValueError as error:
            raise UnreadableError("expected a value") from error

    def _next_is(self, mark: str) -> bool:
        self._match(_SPACE)
        found = self.text.startswith(mark, self.at)
        self.at += len(mark) if found else 0
        return found

    def _expect(self, mark: str) -> None:
        if not self._next_is(mark):
            raise UnreadableError(f"expected {mark!r}")

    def _match(self, pattern: re.Pattern[str]) -> str:
        space = _SPACE.match(self.text, self.at)
        found = pattern.match(self.text, space.end() if space else self.at)
        self.at = found.end() if found else self.at
        return found.group() if found else ""


def written(value: Any) -> str:
    """A JSON value as Python writes it; strings are as JSON writes them, which Python reads as well."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{written(key)}: {written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(written, value)) + "]"
    if value is None or isinstance(value, bool):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


def _unquoted(literal: str) -> str:
    size = 3 if literal[:3] in ('"""', "'''") and len(literal) >= 6 else 1
    return _ESCAPE.sub(_unescaped, literal[size:-size])


def _unescaped(escape: re.Match[str]) -> str:
    """What an escape stands for; one that Python does not know is its own text."""
    code = escape.group(1)
    if len(code) > 1:
        number = int(code[1:], 16)
        return chr(number) if number < 0x110000 else escape.group()
    return _ESCAPED.get(code, escape.group())

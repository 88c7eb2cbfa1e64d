"""How Gemma writes arguments: bare keys, strings between two marks, the rest as in JSON.

Strings have no escapes, so one that holds the mark (and a key that is no plain word) cannot be written so: it is
written in JSON, with `<` escaped, and read so, too. Templates write None for null.

Linear in the length of the text, for the reason of `json_calls.json_reader`: only a string between marks can hold a
mark.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

from sod.chat.dialects.json_calls import MAX_DEPTH

_SPACE = re.compile(r"\s*+")
_JSON_STRING = re.compile(r'"[^"\\<\n]*+(?:\\.[^"\\<\n]*+)*+"')
_WORD = re.compile(r'[^\s:,{}\[\]<>"]++')
_WORDS = {"None": None, "True": True, "False": False}


class UnreadableError(Exception):
    """There is no value where one should stand; the message is for the model."""


@final
@dataclass
class Values:
    """Reads values out of `text` from `at` on; `frames` are the marks around strings so far."""

    text: str
    at: int
    quote: str
    frames: list[tuple[int, int]] = field(default_factory=list)

    def object(self, depth: int) -> dict[str, Any]:
        """What stands between two braces, the first of them behind us."""
        found: dict[str, Any] = {}
        while not self._next_is("}"):
            if found:
                self._expect(",")
            key = self._key()
            self._expect(":")
            found[key] = self._value(depth + 1)
        return found

    def _array(self, depth: int) -> list[Any]:
        found: list[Any] = []
        while not self._next_is("]"):
            if found:
                self._expect(",")
            found.append(self._value(depth + 1))
        return found

    def _value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise UnreadableError(f"nested deeper than {MAX_DEPTH}")
        if self._next_is("{"):
            return self.object(depth)
        if self._next_is("["):
            return self._array(depth)
        quoted = self._quoted()
        if quoted is not None:
            return quoted
        word = self._match(_WORD)
        if word in _WORDS:
            return _WORDS[word]
        try:
            return json.loads(word)
        except ValueError as error:
            raise UnreadableError(f"expected a value; strings stand between {self.quote}") from error

    def _key(self) -> str:
        quoted = self._quoted()
        return self._match(_WORD) if quoted is None else quoted

    def _quoted(self) -> str | None:
        """The string that begins here, in either manner."""
        self._match(_SPACE)
        if self.text.startswith(self.quote, self.at):
            begin = self.at + len(self.quote)
            end = self.text.find(self.quote, begin)
            if end < 0:
                raise UnreadableError("a string is not closed")
            self.frames += [(self.at, begin), (end, end + len(self.quote))]
            self.at = end + len(self.quote)
            return self.text[begin:end]
        written = self._match(_JSON_STRING)
        if not written:
            return None
        try:
            return str(json.loads(written, strict=False))
        except ValueError as error:
            raise UnreadableError("a string cannot be read") from error

    def _next_is(self, mark: str) -> bool:
        self._match(_SPACE)
        found = self.text.startswith(mark, self.at)
        self.at += len(mark) if found else 0
        return found

    def _expect(self, mark: str) -> None:
        if not self._next_is(mark):
            raise UnreadableError(f"expected {mark!r}")

    def _match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return found.group() if found else ""


def written(value: Any, quote: str) -> str:
    """A JSON value as Gemma writes it; `quote` stands around strings."""
    if isinstance(value, str):
        return _quoted(value, quote)
    if isinstance(value, Mapping):
        pairs = sorted(value.items(), key=lambda pair: pair[0].lower())  # as templates sort them
        return "{" + ",".join(f"{_key(key, quote)}:{written(inner, quote)}" for key, inner in pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(written(inner, quote) for inner in value) + "]"
    return json.dumps(value)


def _key(key: str, quote: str) -> str:
    return key if _WORD.fullmatch(key) else _quoted(key, quote)


def _quoted(text: str, quote: str) -> str:
    if quote not in text:
        return f"{quote}{text}{quote}"
    return json.dumps(text, ensure_ascii=False).replace("<", "\\u003c")

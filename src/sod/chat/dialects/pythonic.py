"""Calls as Python writes them, between two marks: `[NAME(KEY=VALUE, ...), ...]`, LFM2's.

Values are Python's literals or JSON's, and a word without quotes is a string, as some templates write it. A string goes
on to its quote, over lines and marks, and is read as Python reads it. What stands between the marks and is no list of
calls is malformed. The rule for a turn is that of `blocks`.

Linear in the length of the text: of attempts that read the same stretch, each begun at a mark, every one takes it for
another thing (a string in either quotes, or what stands between strings), as else the mark would have ended them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from sod.chat.dialects.blocks import Body, Call, Span, closed_block, unopened_block
from sod.chat.dialects.json_calls import call_of, in_json
from sod.chat.dialects.marked import Texts
from sod.records import MalformedCall, ToolCall

_STRING = r"'[^'\\]*+(?:\\.[^'\\]*+)*+'|\"[^\"\\]*+(?:\\.[^\"\\]*+)*+\""
_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_TOKEN = re.compile(
    rf"\s*(?:(?P<string>{_STRING})|(?P<number>{_NUMBER})|(?P<word>[^\W0-9][\w.-]*)|(?P<sign>[\[\](){{}},:=]))",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}
_PLAIN = "\\'\"/"  # stand for themselves behind a backslash
_WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_MAX_DEPTH = 64


class NotACallError(Exception):
    """The text is no list of calls; the message says what was expected, for the model."""


@final
@dataclass(frozen=True)
class Pythonic:
    """Calls between `open` and `close`, which begin with the same characters, as no other text outside strings does."""

    open: str
    close: str
    lead: str = ""
    shields: bool = True

    @property
    def marks(self) -> str:
        """See `CallForm.marks`."""
        return f"{re.escape(self.open)}|{re.escape(self.close)}"

    def reader(self, text: str, texts: Texts) -> Callable[[str, int, int], Span]:
        """See `CallForm.reader`."""
        return self._block

    def written(self, calls: tuple[ToolCall, ...], texts: Texts) -> str:
        """See `CallForm.written`. Names and keys must be words."""
        return f"{self.open}[{', '.join(map(call_text, calls))}]{self.close}"

    def _block(self, text: str, start: int, begin: int) -> Span:
        if text[start:begin] == self.close:
            return unopened_block(text, start, begin)
        close = re.compile(re.escape(self.close))
        return closed_block(text, (start, begin), _body(text, begin), re.compile(self.marks), close)


def _body(text: str, begin: int) -> Body:
    reader = CallReader(text, begin)
    try:
        return Body(reader.calls(), reader.at)
    except NotACallError as error:
        return Body((MalformedCall("invalid_call", str(error)),), begin)


@final
class CallReader:
    """Reads a list of calls, a token at a time."""

    def __init__(self, text: str, at: int) -> None:
        self._text = text
        self.at = at

    def calls(self) -> tuple[Call, ...]:
        """The calls of a list. Raises `NotACallError`, which says what was expected."""
        self._expect("[")
        found = [self._call()]
        while self._next_is(","):
            found.append(self._call())
        self._expect("]")
        return tuple(found)

    def _call(self) -> Call:
        name = self._take("word", "the name of a function")
        arguments: dict[str, Any] = {}
        self._expect("(")
        while not self._next_is(")"):
            key = self._take("word", "the name of an argument, or )")
            self._expect("=")
            arguments[key] = self._value(_MAX_DEPTH)
            if not self._next_is(","):
                self._expect(")")
                break
        return call_of(name, arguments)

    def _value(self, depth: int) -> Any:
        if not depth:
            raise NotACallError(f"nested deeper than {_MAX_DEPTH}")
        if self._next_is("["):
            return self._items("]", lambda: self._value(depth - 1))
        if self._next_is("{"):
            return dict(self._items("}", lambda: self._pair(depth - 1)))
        token = self._token()
        if token is None or token.lastgroup == "sign":
            raise NotACallError("expected a value")
        self.at = token.end()
        if token["string"]:
            return _ESCAPE.sub(_unescaped, token["string"][1:-1])
        return _WORDS.get(token["word"], token["word"]) if token["word"] else _number(token["number"])

    def _items(self, close: str, item: Callable[[], Any]) -> list[Any]:
        found: list[Any] = []
        while not self._next_is(close):
            found.append(item())
            if not self._next_is(","):
                self._expect(close)
                break
        return found

    def _pair(self, depth: int) -> tuple[str, Any]:
        key = self._value(depth)
        if not isinstance(key, str):
            raise NotACallError("expected a string for a key")
        self._expect(":")
        return key, self._value(depth)

    def _token(self) -> re.Match[str] | None:
        return _TOKEN.match(self._text, self.at)

    def _take(self, kind: str, wanted: str) -> str:
        token = self._token()
        if token is None or token.lastgroup != kind:
            raise NotACallError(f"expected {wanted}")
        self.at = token.end()
        return token[kind]

    def _next_is(self, sign: str) -> bool:
        token = self._token()
        if token is None or token["sign"] != sign:
            return False
        self.at = token.end()
        return True

    def _expect(self, sign: str) -> None:
        if not self._next_is(sign):
            raise NotACallError(f"expected {sign}")


def _unescaped(found: re.Match[str]) -> str:
    code = found[1] or found[2] or found[3]
    if code:
        return chr(int(code, 16)) if int(code, 16) < 0x110000 else found[0]
    letter = found[4]
    return _LETTERS.get(letter, letter if letter in _PLAIN else found[0])


def _number(text: str) -> int | float:
    try:
        number: int | float = json.loads(text)
    except ValueError as error:
        raise NotACallError(f"{text[:20]} is no number") from error
    return number


def call_text(call: ToolCall) -> str:
    """A call as Python writes it. Its name and keys must be words."""
    return f"{call.name}({', '.join(f'{key}={_value_text(value)}' for key, value in call.arguments.items())})"


def _value_text(value: Any) -> str:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
        return f"'{escaped}'"
    return str(value) if value is None or isinstance(value, bool) else in_json(value)

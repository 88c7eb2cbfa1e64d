"""Calls in JSON behind a mark or between two: see `json_families` for who writes so.

The rule for a turn is that of `blocks`; why not `transformers.parse_response` is said in `json_calls`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from sod.chat.dialects.blocks import Body, Call, Span, closed_block, unopened_block
from sod.chat.dialects.json_calls import after_space, as_calls, call_of, in_json, json_reader
from sod.chat.dialects.marked import Texts
from sod.records import MalformedCall, ToolCall

_JSON = json_reader("<")


@final
@dataclass(frozen=True)
class Listed:
    """JSON between `open` and `close`, which both begin with `<`; without `close` the calls end with their JSON.

    Without brackets the objects stand one below the other. `keys` are those of a call's name and arguments; without
    them an object has the arguments under the name. `number` is a key for the place of a call in the list, `ids` says
    that calls are written with their id.
    """

    open: str
    close: str = ""
    brackets: tuple[str, str] = ("[", "]")
    separator: str = ", "
    keys: tuple[str, str] | None = ("name", "arguments")
    number: str = ""
    ids: bool = False
    lead: str = ""
    shields: bool = True

    @property
    def marks(self) -> str:
        """See `CallForm.marks`."""
        return "|".join(re.escape(mark) for mark in (self.open, self.close) if mark)

    def reader(self, text: str, texts: Texts) -> Callable[[str, int, int], Span]:
        """See `CallForm.reader`."""
        return self._block

    def written(self, calls: tuple[ToolCall, ...], texts: Texts) -> str:
        """See `CallForm.written`."""
        objects = self.separator.join(in_json(self._object(call, at)) for at, call in enumerate(calls))
        return f"{self.open}{self.brackets[0]}{objects}{self.brackets[1]}{self.close}"

    def _object(self, call: ToolCall, at: int) -> dict[str, Any]:
        arguments = dict(call.arguments)
        if self.keys is None:
            return {call.name: arguments}
        number = {self.number: str(at)} if self.number else {}
        call_id = {"id": call.id} if self.ids and call.id else {}
        return {**number, self.keys[0]: call.name, self.keys[1]: arguments, **call_id}

    def _block(self, text: str, start: int, begin: int) -> Span:
        if text[start:begin] == self.close:
            return unopened_block(text, start, begin)
        body = self._body(text, begin)
        if self.close:
            return closed_block(text, (start, begin), body, re.compile(self.marks), re.compile(re.escape(self.close)))
        return Span("block", start, body.stop, ((start, begin),), body.calls)

    def _body(self, text: str, begin: int) -> Body:
        """The calls behind the mark, one value of JSON or several, and where they end."""
        decoded = _JSON(text, begin)
        calls: tuple[Call, ...] = ()
        stop = begin
        while decoded.failure is None:
            calls, stop = (*calls, *self._calls(decoded.value)), decoded.stop
            if self.brackets[0].strip() or not text.startswith("{", after_space(text, stop)):
                return Body(calls, stop)
            decoded = _JSON(text, stop)
        return Body((*calls, decoded.failure), stop)

    def _calls(self, value: Any) -> tuple[Call, ...]:
        if self.keys is not None:
            return as_calls(value, self.keys[1], self.keys[0])
        objects = value if isinstance(value, list) else [value]
        return tuple(map(_by_name, objects)) or (MalformedCall("invalid_call", "the list of calls is empty"),)


def _by_name(value: Any) -> Call:
    if not isinstance(value, dict) or len(value) != 1:
        return MalformedCall("invalid_call", "expected a JSON object with the arguments under the name of the tool")
    ((name, arguments),) = value.items()
    return call_of(name, arguments)

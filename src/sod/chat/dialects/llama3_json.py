"""Calls as JSON with no mark around them: Llama 3.1 to 4, and xLAM, which writes a list of them.

`{"name": NAME, "parameters": {...}}` is a call where it is all that is said, or all that stands behind the family's tag
(`<|python_tag|>`); several are separated by `;`. Any other JSON is an answer. What begins as a call and cannot be read,
or goes on as text, is malformed. The rule for thoughts is that of `blocks`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

from sod.chat.dialects.blocks import Call, Span
from sod.chat.dialects.json_calls import Decoded, after_space, as_calls, in_json, json_reader
from sod.chat.dialects.marked import Marked, Texts
from sod.records import MalformedCall, ToolCall

_SEPARATOR = re.compile(r"\s*[;,]?\s*")
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_START = r"(?:\A|(?<=</think>))\s*"  # of what is said


@final
@dataclass(frozen=True)
class Bare:
    """Calls without marks: `tag` may stand before them, and does behind a content; `argument` is a call's key for its
    arguments; `brackets` stand around all of them.
    """

    tag: str
    argument: str
    brackets: tuple[str, str] = ("", "")
    separator: str = "; "
    shields: bool = True

    @property
    def lead(self) -> str:
        """See `CallForm.lead`."""
        return self.tag

    @property
    def marks(self) -> str:
        """See `CallForm.marks`. A call that is all that is said is known by how it begins."""
        begins = rf'\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*{_STRING}\s*,\s*"(?:parameters|arguments)"\s*:'
        return rf"{re.escape(self.tag)}|{_START}\{{(?={begins})|{_START}\[(?=\s*\{{{begins})"

    def reader(self, text: str, texts: Texts) -> Callable[[str, int, int], Span]:
        """See `CallForm.reader`."""
        return self._block

    def written(self, calls: tuple[ToolCall, ...], texts: Texts) -> str:
        """See `CallForm.written`."""
        objects = [in_json({"name": call.name, self.argument: dict(call.arguments)}) for call in calls]
        return f"{self.brackets[0]}{self.separator.join(objects)}{self.brackets[1]}"

    @cached_property
    def _json(self) -> Callable[[str, int], Decoded]:
        return json_reader(f"<|{re.escape(self.tag)}")

    def _block(self, text: str, start: int, begin: int) -> Span:
        tagged = text.startswith(self.tag, start)
        frames = ((start, begin),) if tagged else ()
        at = begin if tagged else begin - 1
        calls: tuple[Call, ...] = ()
        while not calls or text.startswith("{", at):
            decoded = self._json(text, at)
            if decoded.failure is not None:
                return Span("block", start, begin, frames, (decoded.failure,))
            calls += self._calls(decoded.value)
            separator = _SEPARATOR.match(text, decoded.stop)
            at = separator.end() if separator else decoded.stop
        end = after_space(text, decoded.stop)
        if end == len(text) or text.startswith(self.tag, end):
            return Span("block", start, end, frames, calls)
        error = MalformedCall("invalid_call", "a call must be all that is said")
        return Span("block", start, decoded.stop, frames, (error,))

    def _calls(self, value: object) -> tuple[Call, ...]:
        """`arguments` and `parameters` mean the same."""
        found = value if isinstance(value, list) else [value]
        other = all(isinstance(call, dict) and self.argument not in call for call in found)
        argument = {"arguments": "parameters", "parameters": "arguments"}[self.argument] if other else self.argument
        return as_calls(value, argument)


LLAMA3_JSON = Marked(
    "llama3-json", Bare("<|python_tag|>", "parameters"), words=('"parameters": ', "ipython"), others=("<tool_call>",)
)
XLAM = Marked(
    "xlam",
    Bare("[TOOL_CALLS]", "arguments", brackets=("[", "]"), separator=", "),
    words=('[{"name": "tool_call_name", "arguments"',),
)

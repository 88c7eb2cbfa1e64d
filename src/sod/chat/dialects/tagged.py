"""Calls in tags with an argument in each: Qwen3-Coder's, GLM's and others', which differ in nothing but the tags.

`transformers.parse_response` ends a value at the first mark that looks like the end of a call, loses calls that cannot
be read, and writes nothing; so these are read here. The rule for thoughts and for what is said is that of `blocks`:

- A call is read from left to right by its form. A value ends at the first mark that ends values, and whatever else
  looks like a mark in it is text; see `values` for what it means.
- A call that is not of the form ends at the next mark that closes one, and is malformed; where another one opens
  before, it is unclosed and ends with its own mark. Nothing is taken out of it.
- In a thought a call hides no mark: one that is only begun there would go on to the end of a value behind the thought.
- Where a family writes all calls of a turn between two marks, calls before the one that cannot be read are made.

Linear in the length of the text: from where reading an argument failed once it is not tried again.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, final

from sod.chat.dialects.blocks import Call, Span, unopened_block
from sod.chat.dialects.json_calls import call_of
from sod.chat.dialects.marked import Texts
from sod.chat.dialects.values import read_value, write_value
from sod.records import MalformedCall, ToolCall

_CDATA = ("<![CDATA[", "]]>")
_Frames = tuple[tuple[int, int], ...]


@final
@dataclass(frozen=True)
class Tags:
    """How a call is written. White space is free where it is read, save around `{value}`.

    `head` holds {name}, `argument` {key} and {value}, and {text}, if the family says of each value whether it is text
    ("true" or "false"). `section` stands around all calls of a turn, in some families. `cdata`: a string that is not
    plain is written as XML's `<![CDATA[...]]>`.
    """

    head: str
    argument: str
    tail: str
    section: tuple[str, str] = ("", "")
    lead: str = "\n"
    between: str = "\n"
    python_words: bool = False
    cdata: bool = False
    shields: bool = False

    @cached_property
    def opener(self) -> str:
        """The mark that opens a call, or the calls of a turn."""
        return self.section[0].strip() or self.head.partition("{")[0].split("\n")[0]

    @cached_property
    def closer(self) -> str:
        """The mark that closes it."""
        return self.section[1].strip() or self.tail.split()[-1]

    @cached_property
    def value_end(self) -> str:
        """The mark that ends a value."""
        return self.argument.partition("{value}")[2].strip()

    @cached_property
    def shown(self) -> str:
        """The form in one line, for who got it wrong."""
        return f"{self.head}{self.argument}{self.tail}".replace("\n", "")

    @cached_property
    def marks(self) -> str:
        """See `CallForm.marks`."""
        return f"{re.escape(self.opener)}|{re.escape(self.closer)}"

    @cached_property
    def section_end(self) -> re.Pattern[str]:
        """What matches the closing mark and the white space before it."""
        return re.compile(r"\s*" + re.escape(self.closer))

    @cached_property
    def patterns(self) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
        """What matches a head, an argument up to its value, and a tail."""
        before_value = self.argument.partition("{value}")[0]
        line = r"\n?" if before_value.endswith("\n") else ""
        argument = _pattern(before_value.strip()) + line
        return re.compile(_pattern(self.head) + r"\s*"), re.compile(argument), re.compile(_pattern(self.tail))

    def reader(self, text: str, texts: Texts) -> Callable[[str, int, int], Span]:
        """See `CallForm.reader`."""
        return _Reading(text, self, texts).block

    def written(self, calls: tuple[ToolCall, ...], texts: Texts) -> str:
        """See `CallForm.written`. `<`, `>`, quotes and line breaks in names and keys have no escape."""
        body = self.between.join(self._written(call, texts) for call in calls)
        return f"{self.section[0]}{body}{self.section[1]}"

    def _written(self, call: ToolCall, texts: Texts) -> str:
        parts = [self.head.replace("{name}", call.name)]
        for key, value in call.arguments.items():
            is_text = isinstance(value, str) and self.value_end not in value
            before, after = self.argument.split("{value}")
            before = before.replace("{text}", str(is_text).lower()).replace("{key}", key)
            parts += [before, self._value(value, is_text, (call.name, key) in texts), after]
        return "".join([*parts, self.tail])

    def _value(self, value: Any, is_text: bool, as_text: bool) -> str:
        says_which = "{text}" in self.argument
        if is_text and says_which:
            return str(value)
        written = write_value(value, self.value_end, as_text and not says_which, self.python_words)
        if self.cdata and isinstance(value, str) and _CDATA[1] not in value:
            plain = written == value and not any(character in value for character in "<&\n")
            return value if plain else f"{_CDATA[0]}{value}{_CDATA[1]}"
        return written


@final
@dataclass(frozen=True)
class _Argument:
    """Where an argument's value stands, before it is taken out of the text; `text` is what `{text}` stood for."""

    key: str
    text: str | None
    start: int
    stop: int


@final
@dataclass(frozen=True)
class _Found:
    """A call of the right form, and where its marks are."""

    name: str
    arguments: tuple[_Argument, ...]
    frames: _Frames
    stop: int


@final
class _Reading:
    """Reads the calls of one text, and remembers where that failed."""

    def __init__(self, text: str, tags: Tags, texts: Texts) -> None:
        self._text = text
        self._tags = tags
        self._texts = texts
        self._dead = set[int]()  # no rest of a call can be read from these places
        self._ends = _places(tags.value_end, text)
        self._cdata_ends = _places(_CDATA[1] + tags.value_end, text) if tags.cdata else []

    def block(self, _: str, start: int, begin: int) -> Span:
        """The call at `start`, or all calls of a section: see `CallForm.reader`."""
        if self._text[start:begin] == self._tags.closer:
            return unopened_block(self._text, start, begin)
        if self._tags.section[0]:
            return self._section(start, begin)
        found = self._call(start)
        return self._span(start, found.stop, [found], ()) if found else self._failed(start, begin, [])

    def _section(self, start: int, begin: int) -> Span:
        calls: list[_Found] = []
        at, seen = begin, set[int]()
        while at not in self._dead and (found := self._call(at)) is not None:
            seen.add(at)
            calls.append(found)
            at = found.stop
        close = self._tags.section_end.match(self._text, at)
        if calls and close:
            marks = ((start, begin), (close.end() - len(self._tags.closer), close.end()))
            return self._span(start, close.end(), calls, marks)
        self._dead |= seen
        return self._failed(start, begin, calls)

    def _span(self, start: int, stop: int, found: Sequence[_Found], marks: _Frames) -> Span:
        frames = sorted([*marks, *chain.from_iterable(call.frames for call in found)])
        return Span("block", start, stop, tuple(frames), tuple(map(self._made, found)))

    def _failed(self, start: int, begin: int, found: Sequence[_Found]) -> Span:
        opener, closer = self._tags.opener, self._tags.closer
        after = re.compile(self._tags.marks).search(self._text, begin)
        if after is None or after.group() == opener:
            error = MalformedCall("unclosed_tool_call", f"{opener} without {closer}")
            return Span("block", start, begin, ((start, begin),), (error,))
        calls = [self._made(call) for call in found if call.stop <= after.start()]
        error = MalformedCall("invalid_call", f"expected {self._tags.shown}")
        return Span("block", start, after.end(), ((start, begin), after.span()), (*calls, error))

    def _call(self, at: int) -> _Found | None:
        """The call at `at`, None where none can be read."""
        head_pattern, argument_pattern, tail_pattern = self._tags.patterns
        head = head_pattern.match(self._text, at)
        if head is None:
            return None
        arguments: list[_Argument] = []
        frames, seen = [*_marks(head)], set[int]()
        at = head.end()
        while at not in self._dead:
            seen.add(at)
            if tail := tail_pattern.match(self._text, at):
                return _Found(head["name"].strip(), tuple(arguments), (*frames, *_marks(tail)), tail.end())
            argument = argument_pattern.match(self._text, at)
            stop = self._value_stop(argument.end()) if argument else None
            if argument is None or stop is None:
                break
            at = stop + len(self._tags.value_end)
            frames += [*_marks(argument), (stop, at)]
            arguments.append(_Argument(argument["key"].strip(), argument.groupdict().get("text"), argument.end(), stop))
        self._dead |= seen
        return None

    def _value_stop(self, at: int) -> int | None:
        """Where the value ends that begins at `at`."""
        if self._tags.cdata and self._text.startswith(_CDATA[0], at):
            before_end = _following(self._cdata_ends, at)
            return None if before_end is None else before_end + len(_CDATA[1])
        return _following(self._ends, at)

    def _made(self, found: _Found) -> Call:
        return call_of(found.name, {argument.key: self._value(found.name, argument) for argument in found.arguments})

    def _value(self, name: str, argument: _Argument) -> Any:
        written = self._text[argument.start : argument.stop]
        if f"\n{self._tags.value_end}" in self._tags.argument:
            written = written.removesuffix("\n")
        if argument.text == "true":
            return written
        if self._tags.cdata and written.startswith(_CDATA[0]):
            return written.removeprefix(_CDATA[0]).removesuffix(_CDATA[1])
        declared = argument.text is None and (name, argument.key) in self._texts
        return read_value(written, self._tags.value_end, declared)


def _places(mark: str, text: str) -> list[int]:
    return [found.start() for found in re.finditer(re.escape(mark), text)]


def _following(places: Sequence[int], at: int) -> int | None:
    nth = bisect_left(places, at)
    return places[nth] if nth < len(places) else None


def _pattern(form: str) -> str:
    """A form as a regular expression: its white space is free, its fields are groups."""
    parts = re.split(r"(\{\w+\}|\s+)", form.strip())
    return r"\s*" + "".join(map(_part, parts))


def _part(part: str) -> str:
    if part.startswith("{"):
        return f'(?P<{part[1:-1]}>[^<>"\\n]+)'
    return r"\s*" if part.isspace() else re.escape(part)


def _marks(found: re.Match[str]) -> Iterator[tuple[int, int]]:
    """What was matched, without its fields and the white space around it."""
    start = found.end() - len(found.group().lstrip())
    for group in range(1, found.re.groups + 1):
        yield start, found.start(group)
        start = found.end(group)
    stop = found.start() + len(found.group().rstrip())
    if start < stop:
        yield start, stop

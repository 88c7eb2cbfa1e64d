"""How a template lays out a conversation, found out and proven with probes: where turns end and what follows them.

The ledger appends: prompt, what was sampled, its end, a *suffix* (the messages after it and the next generation
prompt). That is the template's own rendering only if nothing it wrote before is changed by what follows, so every kind
of suffix is proven before it is used: three turns with such a suffix between them must be, from left to right, the
prompt, the turn as the dialect reads it, its end, the same suffix, and so on. A thought that the template puts before
an earlier turn, or leaves out there, is no difference: what was appended stays as it was.

The end of a turn is found by reading: the first control token that the dialect does not write itself and before which
it reads the very turn. So it may differ after calls (gpt-oss, GLM, Gemma 4), and be the mark of the next role
(GLM). Where the last answer of a conversation ends in another token than earlier ones (gpt-oss), that one is sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

from sod.chat.content import ContentEncoder, Control
from sod.chat.dialects.base import Dialect, Piece
from sod.chat.probes import ANSWER, CHANGES, PARAMETER, USER, Slot, answer, calling, others
from sod.records import Message, Role, SodError, ToolCall

Text = Callable[[Sequence[Message], bool, bool], str]
"""Renders messages; whether with the generation prompt, and whether with tools."""


@final
@dataclass(frozen=True)
class Suffix:
    """What follows a turn's `end`: texts of the template, and slots between them."""

    end: Control
    parts: tuple[str | Slot, ...]
    thought_open: bool

    def pieces(self, messages: Sequence[Message], calls: Sequence[ToolCall]) -> list[Piece]:
        """The suffix with these messages in it, the first of which answer `calls` where they are of a tool."""
        return [
            Piece(part, frame=True) if isinstance(part, str) else _filled(part, messages, calls) for part in self.parts
        ]

    def text(self, messages: Sequence[Message], calls: Sequence[ToolCall]) -> str:
        """The same as text."""
        return "".join(piece.text for piece in self.pieces(messages, calls))


def _filled(slot: Slot | str, messages: Sequence[Message], calls: Sequence[ToolCall]) -> Piece:
    if isinstance(slot, str):
        return Piece(slot, frame=True)
    if slot.kind == "content":
        return Piece(slot.change(messages[slot.at].content), frame=False)
    if slot.kind == "id":
        return Piece(str(calls[slot.at].id), frame=False)
    answers = [message for message in messages if message.role == "tool"]
    own = answers[slot.at].name if slot.at < len(answers) else None
    return Piece(own or calls[slot.at].name, frame=False)


@final
class Layout:
    """The layout of a template's conversations in a dialect. Its errors say what the template does, with no advice."""

    def __init__(self, text: Text, dialect: Dialect, encoder: ContentEncoder, tools: bool) -> None:
        """Raises SodError where the end of an answer cannot be told; with `tools`, also what `suffix` does for them."""
        self._text = text
        self._dialect = dialect
        self._encoder = encoder
        self._suffixes: dict[tuple[int, tuple[Role, ...], bool], Suffix] = {}
        self._bases: dict[bool, str] = {}
        self.prompt = text([USER], True, tools)
        if USER.content not in self.prompt:
            raise SodError("chat template: it does not render a user's message")
        self.thought_open = dialect.opens_thought(self.prompt)
        self._last_end = self._end_of_last_answer(tools)
        self.answer_end = self._last_end or self._end_before_user(tools)
        self._refuse_opening_end()
        self.after_tool = self.suffix(1, ("tool",)) if tools else None

    def suffix(self, calls: int, roles: Sequence[Role], tools: bool = True) -> Suffix:
        """What follows a turn of so many calls (0: an answer) when messages of these roles come after it.

        `tools` says whether the prompt shows any. Raises SodError where the template does not render that, or not
        append-only.
        """
        key = (calls, tuple(roles), tools)
        if key not in self._suffixes:
            self._suffixes[key] = self._proven(*key)
        return self._suffixes[key]

    @cached_property
    def lead(self) -> str:
        """What the template puts before every answer without a thought: GLM an empty thought, others a space.

        Empty where it puts that before the last answer only, or leaves it to the generation prompt.
        """
        probe, after = answer(1), Message("user", ANSWER.format(2))
        try:
            text = self._text([USER, probe, after], False, self.after_tool is not None)
            between = text[self._begin(text, self.after_tool is not None) :].partition(probe.content)[0]
        except SodError:
            return ""
        if not self.prompt.endswith(self._bases[self.after_tool is not None]):
            return ""
        written = self._dialect.write(probe, False).partition(probe.content)[0]
        lead = between[: len(between) - len(written)]
        return lead if between.endswith(written) and self.says(lead + written + probe.content, probe) else ""

    def says(self, text: str, message: Message) -> bool:
        """Whether a turn's text says just the calls and the content of a probe."""
        said = self._dialect.read(text, False, True)
        calls = [(call.name, dict(call.arguments)) for call in said.calls if isinstance(call, ToolCall)]
        same = calls == [(call.name, dict(call.arguments)) for call in message.tool_calls]
        return same and len(said.calls) == len(calls) and said.answer.strip() == message.content.strip()

    def _refuse_opening_end(self) -> None:
        """Raises SodError where the end found is in truth what opens every message, the assistant's included."""
        prompt = self._text([USER], True, False)
        before, _, after = prompt.partition(USER.content)
        opening = [self._encoder.controls(part)[-1:] for part in (before, after)]
        if all(found and found[0].id == self.answer_end.id for found in opening):
            raise SodError("chat template: nothing marks the end of an assistant turn")

    def _end_of_last_answer(self, tools: bool) -> Control | None:
        probe = answer(1)
        text = self._text([USER, probe], False, tools)
        return self._end(text, self._begin(text, tools), probe, len(text))

    def _end_before_user(self, tools: bool) -> Control:
        """For templates that write nothing behind a last answer: what stands between it and the user's next message."""
        probe, after = answer(1), Message("user", ANSWER.format(2))
        text = self._text([USER, probe, after], False, tools)
        end = self._end(text, self._begin(text, tools), probe, text.find(after.content))
        if end is None:
            raise SodError("chat template: the end of an assistant turn is not a token of its own")
        return end

    def _begin(self, text: str, tools: bool) -> int:
        """Where the first turn begins. Raises SodError where the text does not begin with the prompt before it."""
        if tools not in self._bases:
            self._bases[tools] = self._dialect.without_thought(self._text([USER], True, tools))
        base = self._bases[tools]
        if not text.startswith(base):
            raise SodError(
                "chat template: the prompt changes once the assistant has answered, so token ids could not be appended"
            )
        return len(base)

    def _end(self, text: str, begin: int, turn: Message, limit: int) -> Control | None:
        """The token that ends the `turn` at `begin`, looked for up to `limit`; None where there is none."""
        last = str(turn.tool_calls[-1].arguments[PARAMETER]) if turn.tool_calls else turn.content
        mark = text.find(last, begin)
        if mark < 0:
            what = "call" if turn.tool_calls else "content"
            raise SodError(f"chat template: it does not render an assistant's {what}")
        for control in self._controls(text, begin, limit):
            after = control.start >= mark + len(last)
            if after and self._ends_here(text[begin : control.stop], control.start - begin, turn):
                return control
        return None

    def _ends_here(self, text: str, begin: int, turn: Message) -> bool:
        """Whether the token at `begin`, which `text` ends with, ends the turn: it is none that the dialect writes."""
        written = self._dialect.write(turn, False)
        return text[begin:].strip() not in written and self.says(text[:begin], turn)

    def _controls(self, text: str, begin: int, limit: int) -> list[Control]:
        found = self._encoder.controls(text[begin:limit])
        return [Control(one.id, one.start + begin, one.stop + begin) for one in found]

    def _turn_end(self, text: str, begin: int, turn: Message, limit: int) -> Control:
        """The end of a turn that is followed by others. Raises SodError where it is not the end that is sampled."""
        end = self._end(text, begin, turn, limit)
        if turn.tool_calls:
            if end is None:
                raise SodError(
                    f"chat template: the call that it writes is not read as {self._dialect.name}, or no token of its "
                    "own ends the turn"
                )
            return end
        if self._last_end is not None and (end is None or end.id != self._last_end.id):
            later = [one for one in self._controls(text, begin, limit) if one.start >= text.find(turn.content, begin)]
            end = later[0] if later else None
        if end is None or (self._last_end is None and end.id != self.answer_end.id):
            raise SodError("chat template: what ends an answer depends on what follows it")
        return end

    def _proven(self, calls: int, roles: tuple[Role, ...], tools: bool) -> Suffix:
        first = calling(1, calls) if calls else answer(1)
        after = others(1, roles, first.tool_calls)
        text = self._text([USER, first, *after], True, tools)
        end = self._turn_end(text, self._begin(text, tools), first, _limit(text, after))
        parts = _cut(text[end.stop :], after, first.tool_calls)
        suffix = Suffix(end, parts, self._dialect.opens_thought(text))
        self._prove(suffix, calls, roles, tools)
        return suffix

    def _prove(self, suffix: Suffix, calls: int, roles: tuple[Role, ...], tools: bool) -> None:
        """Three turns: see the head of this file."""
        turns = [calling(turn, calls) if calls else answer(turn) for turn in (1, 2)]
        after = [others(turn, roles, said.tool_calls) for turn, said in enumerate(turns, start=1)]
        last = answer(3)
        text = self._text([USER, turns[0], *after[0], turns[1], *after[1], last], False, tools)
        at = self._begin(text, tools)
        for turn, messages in zip(turns, after, strict=True):
            end = self._turn_end(text, at, turn, _limit(text, messages, at))
            expected = self._dialect.without_thought(suffix.text(messages, turn.tool_calls))
            if end.id != suffix.end.id or not text.startswith(expected, end.stop):
                raise SodError("chat template: the text between two assistant turns changes with what follows")
            at = end.stop + len(expected)
        found = text.find(last.content, at)
        if found < 0 or not self.says(text[at : found + len(last.content)], last):
            raise SodError("chat template: the text before a later assistant turn changes with what follows")


def _limit(text: str, messages: Sequence[Message], begin: int = 0) -> int:
    """Where the first of these messages' contents stands, or its end where none does."""
    for message in messages[:1]:
        for change in CHANGES:
            at = text.find(change(message.content), begin)
            if at >= 0:
                return at
    return len(text)


def _cut(text: str, messages: Sequence[Message], calls: Sequence[ToolCall]) -> tuple[str | Slot, ...]:
    """The text after a turn's end, cut at its slots. Raises SodError where a message's content is not in it."""
    places: list[tuple[int, int, Slot]] = []
    for at, message in enumerate(messages):
        places.append(_content_place(text, at, message))
    for at, call in enumerate(calls):
        for kind, mark in (("name", call.name), ("id", str(call.id))):
            start = text.find(mark)
            while start >= 0:
                places.append((start, start + len(mark), Slot("id" if kind == "id" else "name", at)))
                start = text.find(mark, start + len(mark))
    parts: list[str | Slot] = []
    done = 0
    for start, stop, slot in sorted(places, key=lambda place: place[0]):
        parts += [text[done:start], slot]
        done = stop
    return tuple(part for part in [*parts, text[done:]] if part != "")


def _content_place(text: str, at: int, message: Message) -> tuple[int, int, Slot]:
    for change in CHANGES:
        shown = change(message.content)
        start = text.find(shown)
        if start >= 0:
            return start, start + len(shown), Slot("content", at, change)
    raise SodError(f"chat template: a {message.role} message's content is not rendered")

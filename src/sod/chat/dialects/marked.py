"""Families by tables: the form of their calls, the marks of their thoughts and the words of their templates."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, final

from sod.chat.dialects.base import Piece
from sod.chat.dialects.blocks import Grammar, Span
from sod.records import Message, Said, ToolCall

Texts = frozenset[tuple[str, str]]  # a tool and a parameter of it, whose schema says that it is a string


class CallForm(Protocol):
    """How the calls of a turn are written: `tagged`, `listed` and `bare` have one each."""

    @property
    def lead(self) -> str:
        """What is written between a content and its calls."""
        ...

    @property
    def shields(self) -> bool:
        """Whether a mark in a string of a call can be told from others: see `Grammar.shields`."""
        ...

    @property
    def marks(self) -> str:
        """A regular expression without groups for what opens calls, and what closes them."""
        ...

    def reader(self, text: str, texts: Texts) -> Callable[[str, int, int], Span]:
        """What reads the calls of one text: see `Grammar.read_block`."""
        ...

    def written(self, calls: tuple[ToolCall, ...], texts: Texts) -> str:
        """The text of calls, one or more."""
        ...


@final
@dataclass(frozen=True)
class Thinking:
    """The marks of a thought, and the white space that a family writes before, inside and behind them."""

    open: str = "<think>"
    close: str = "</think>"
    before: str = ""
    inside: str = "\n"
    behind: str = "\n\n"

    def taken_from(self, prompt: str) -> str:
        """A rendered prompt without the open or the empty thought at its end, and without white space there.

        Some templates close a thought that they never opened, to say that there is none (GLM 4.7).
        """
        head = prompt.rstrip().removesuffix(self.close).rstrip()
        return head.removesuffix(self.open.rstrip()).rstrip()


@final
@dataclass(frozen=True)
class Marked:
    """The dialect of a family. Its templates have all `words` in them and none of `others`.

    `answer` stands around what is said, in some families.
    """

    name: str
    form: CallForm
    words: tuple[str, ...]
    others: tuple[str, ...] = ()
    thinking: Thinking = field(default_factory=Thinking)
    answer: tuple[str, str] = ("", "")
    texts: Texts = frozenset()

    def speaks(self, template: str) -> bool:
        """See `Dialect.speaks`."""
        return all(word in template for word in self.words) and not any(word in template for word in self.others)

    def opens_thought(self, prompt: str) -> bool:
        """See `Dialect.opens_thought`."""
        return prompt.rstrip().endswith(self.thinking.open.rstrip())

    def without_thought(self, prompt: str) -> str:
        """See `Dialect.without_thought`."""
        return self.thinking.taken_from(prompt)

    def read(self, text: str, thought_open: bool, finished: bool) -> Said:
        """See `Dialect.read`."""
        return self._grammar(text).read(text, thought_open, finished)

    def pieces(self, text: str, thought_open: bool) -> list[Piece]:
        """See `Dialect.pieces`."""
        return self._grammar(text).pieces(text, thought_open)

    def write(self, message: Message, thought_open: bool) -> str:
        """See `Dialect.write`."""
        said, thinking = self._said(message), self.thinking
        if message.reasoning:
            thought, rest = message.reasoning.strip("\n"), said.lstrip("\n")
            opening = f"{'' if thought_open else thinking.before}{thinking.open}{thinking.inside}"
            if thought_open and not thought.startswith(thinking.open):
                opening = ""  # a turn that begins with the mark repeats the prompt's
            return f"{opening}{thought}{thinking.inside}{thinking.close}{thinking.behind}{rest}"
        if not thought_open:
            return said
        if said.startswith(thinking.open):
            return said.removeprefix(thinking.open).removeprefix("\n")
        closes = any(piece.frame and piece.text == thinking.close for piece in self.pieces(message.content, True))
        return said if closes else f"{thinking.inside}{thinking.close}{thinking.behind}{said}"

    def _said(self, message: Message) -> str:
        """The content and the calls of a message. A content may bring its thought along."""
        content = message.content
        if content and self.answer[0] and not content.startswith(self.thinking.open):
            content = f"{self.answer[0]}{content}{self.answer[1]}"
        if not message.tool_calls:
            return content
        calls = self.form.written(message.tool_calls, self.texts)
        return f"{content}{self.form.lead}{calls}" if content else calls

    def _grammar(self, text: str) -> Grammar:
        """What reads this one text."""
        return Grammar(
            block=self.form.marks,
            read_block=self.form.reader(text, self.texts),
            think=self.thinking.open,
            thought=self.thinking.close,
            silent="|".join(re.escape(mark) for mark in self.answer if mark),
            lead=self.form.lead,
            shields=self.form.shields,
        )

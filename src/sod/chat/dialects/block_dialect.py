"""A dialect whose turns are read by a `Grammar`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from sod.chat.dialects.base import Piece
from sod.chat.dialects.blocks import Grammar
from sod.records import Message, Said


@final
@dataclass(frozen=True)
class BlockDialect:
    """`spoken_in` says whether a template is written for it, `said_by` what a message says, its thought apart.

    `inside` is the white space that the family writes at both ends of a thought, `behind` that between it and the rest.
    """

    name: str
    grammar: Grammar
    spoken_in: Callable[[str], bool]
    said_by: Callable[[Message], str]
    inside: str = ""
    behind: str = ""

    def speaks(self, template: str) -> bool:
        """See `Dialect.speaks`."""
        return self.spoken_in(template)

    def opens_thought(self, prompt: str) -> bool:
        """See `Dialect.opens_thought`."""
        return self.grammar.opens_thought(prompt)

    def without_thought(self, prompt: str) -> str:
        """See `Dialect.without_thought`."""
        return self.grammar.without_thought(prompt)

    def read(self, text: str, thought_open: bool, finished: bool) -> Said:
        """See `Dialect.read`."""
        return self.grammar.read(text, thought_open, finished)

    def pieces(self, text: str, thought_open: bool) -> list[Piece]:
        """See `Dialect.pieces`."""
        return self.grammar.pieces(text, thought_open)

    def write(self, message: Message, thought_open: bool) -> str:
        """See `Dialect.write`. A content may bring its thought along, between marks of its own."""
        said = self.said_by(message)
        think, thought = self.grammar.think, self.grammar.thought
        closing = f"{self.inside}{thought}{self.behind}"
        if message.reasoning and think:
            repeats = message.reasoning.startswith(think)  # what begins with the mark repeats the prompt's
            opening = "" if thought_open and not repeats else f"{think}{self.inside}"
            return f"{opening}{message.reasoning}{closing}{said}"
        if not thought_open:
            return said
        if said.startswith(think):
            return said.removeprefix(think).removeprefix(self.inside)
        closes = any(piece.frame and piece.text == thought for piece in self.pieces(said, thought_open))
        return said if closes else f"{closing}{said}"

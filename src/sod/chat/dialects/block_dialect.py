"""A dialect whose turns are read by a `Grammar`, and which writes no white space around its thoughts."""

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
    """`spoken_in` says whether a template is written for it, `said_by` what a message says, its thought apart."""

    name: str
    grammar: Grammar
    spoken_in: Callable[[str], bool]
    said_by: Callable[[Message], str]

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
        if message.reasoning and think:
            return f"{'' if thought_open else think}{message.reasoning}{thought}{said}"
        if not thought_open:
            return said
        if said.startswith(think):
            return said.removeprefix(think)
        closes = any(piece.frame and piece.text == thought for piece in self.pieces(said, thought_open))
        return said if closes else f"{thought}{said}"

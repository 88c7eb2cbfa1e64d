"""A dialect bound to a tokenizer: sampled token ids in, what they say out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from sod.chat.dialects.base import Dialect, Piece
from sod.records import Message, Said


@final
@dataclass(frozen=True)
class TurnReader:
    """What reads the text of a turn, its end token left out, behind a prompt that leaves a thought open or does not."""

    dialect: Dialect
    thought_open: bool
    finished: bool

    def __call__(self, text: str) -> Said:
        """What the turn says."""
        return self.dialect.read(text, self.thought_open, self.finished)


@final
@dataclass(frozen=True)
class BoundDialect:
    """A dialect over a tokenizer and a template: `decode` gives the text of a turn without its end, `stop_ids` end it.

    `thought_open` says whether the generation prompt leaves a thought open.
    """

    dialect: Dialect
    decode: Callable[[Sequence[int]], str]
    stop_ids: frozenset[int]
    thought_open: bool = False

    @property
    def name(self) -> str:
        """The dialect's short name."""
        return self.dialect.name

    def parse(self, token_ids: Sequence[int], thought_open: bool | None = None) -> Said:
        """What a sampled turn says, its end token included in `token_ids` where it has one.

        A turn without its end token was cut off: it makes no calls. Never raises: a call that cannot be read is a
        `MalformedCall`. `thought_open` stands in for the template's, for a turn after another prompt.
        """
        finished = bool(token_ids) and token_ids[-1] in self.stop_ids
        return self.dialect.read(self.decode(token_ids), self._open(thought_open), finished)

    def read(self, text: str, thought_open: bool | None = None) -> Said:
        """What the text of a finished turn says."""
        return self.dialect.read(text, self._open(thought_open), True)

    def pieces(self, text: str, thought_open: bool | None = None) -> list[Piece]:
        """The text of a turn cut at its marks; see `Dialect.pieces`."""
        return self.dialect.pieces(text, self._open(thought_open))

    def write(self, message: Message, thought_open: bool | None = None) -> str:
        """The text that the assistant would have sampled to say `message`, after the template's generation prompt."""
        return self.dialect.write(message, self._open(thought_open))

    def _open(self, thought_open: bool | None) -> bool:
        return self.thought_open if thought_open is None else thought_open

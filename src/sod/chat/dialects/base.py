"""A model family's way of writing: how thoughts, answers and tool calls stand in what it samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

from sod.records import Said, ToolCall


@final
@dataclass(frozen=True)
class Piece:
    """A stretch of a text: `frame` is a mark that a reader goes by, the rest is content."""

    text: str
    frame: bool


class Dialect(Protocol):
    """Reads and writes assistant turns. The only code that looks for marks in what a model sampled."""

    @property
    def name(self) -> str:
        """The short name of the dialect."""
        ...

    def parse(self, token_ids: Sequence[int]) -> Said:
        """What a sampled turn says, its end token included in `token_ids` where it has one.

        A turn without its end token was cut off: it makes no calls. Never raises: a call that cannot be read is a
        `MalformedCall`.
        """
        ...

    def render_call(self, call: ToolCall) -> str:
        """The text of one call, such that `parse` reads it back."""
        ...

    def pieces(self, text: str) -> list[Piece]:
        """A turn's text cut at the marks that `parse` goes by: those are frame, what stands between is content."""
        ...

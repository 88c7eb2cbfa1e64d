"""A model family's way of writing: how thoughts, answers and tool calls stand in what it samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

from sod.records import Said, ToolCall


@final
@dataclass(frozen=True)
class Piece:
    """A stretch of an assistant turn: a mark that the dialect reads (`frame`), or content."""

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

    def pieces(self, text: str) -> list[Piece]:
        """The text of a turn cut at its marks; put together again the pieces are `text`.

        A frame is a mark that `parse` goes by. What only looks like one (in a string of a call, in a thought) is
        content.
        """
        ...

    def render_call(self, call: ToolCall) -> str:
        """The text of one call, such that `parse` reads it back."""
        ...

    def after_prompt(self, text: str) -> str:
        """A turn as it goes on from the generation prompt, such that `parse` finds said what `text` says.

        Where the prompt leaves a thought open, a turn with a thought goes on with it; one without closes it first.
        """
        ...

"""A model family's way of writing: how thoughts, answers and tool calls stand in what it samples.

A dialect knows text alone. `sod.chat.bound` binds one to a tokenizer, `sod.chat.dialects.known` lists all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final

from sod.records import Message, Said


@final
@dataclass(frozen=True)
class Piece:
    """A stretch of an assistant turn: a mark that the dialect reads (`frame`), or content."""

    text: str
    frame: bool


class Dialect(Protocol):
    """Reads and writes assistant turns as text: a turn without its end token, other special tokens kept in it.

    The only code that looks for marks in what a model sampled. Every method takes time linear in the length of its
    text. `thought_open` says that the generation prompt ended inside a thought, so that the turn begins in it.
    """

    @property
    def name(self) -> str:
        """The short name of the dialect, as `chat.dialect` takes it."""
        ...

    def speaks(self, template: str) -> bool:
        """Whether a chat template (its Jinja source) is written for this dialect, as far as its words tell."""
        ...

    def opens_thought(self, prompt: str) -> bool:
        """Whether a rendered generation prompt ends inside a thought. An empty, closed thought does not."""
        ...

    def without_thought(self, prompt: str) -> str:
        """A rendered prompt without the open or the empty thought at its end, as templates render it later on."""
        ...

    def read(self, text: str, thought_open: bool, finished: bool) -> Said:
        """What a turn says. A turn that is not `finished` was cut off: it makes no calls.

        Never raises: a call that cannot be read is a `MalformedCall`.
        """
        ...

    def pieces(self, text: str, thought_open: bool) -> list[Piece]:
        """The text of a turn cut at its marks; put together again the pieces are `text`.

        A frame is a mark that `read` goes by. What only looks like one (in a string of a call, in a thought) is
        content.
        """
        ...

    def write(self, message: Message, thought_open: bool) -> str:
        """What the assistant would have sampled to say `message`, such that `read` finds its reasoning, content and
        calls again; the end token is not part of it.

        Where the prompt leaves a thought open, a message with reasoning goes on with it, one without closes it first.
        """
        ...

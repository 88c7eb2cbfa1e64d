"""What an episode needs of `sod.chat.render.Chat`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sod.records import Message, Said, ToolCall

Schemas = Sequence[Mapping[str, Any]]


class Renderer(Protocol):
    """Messages to tokens and back. `tools` are those that the episode shows; None: the run's."""

    def prompt_ids(self, messages: Sequence[Message], tools: Schemas | None = None) -> list[int]: ...
    def closing_ids(self, token_ids: Sequence[int]) -> tuple[int, ...]: ...
    def suffix_ids(
        self, messages: Sequence[Message], calls: Sequence[ToolCall] = (), tools: bool | None = None
    ) -> tuple[int, ...]: ...
    def decode_turn(self, token_ids: Sequence[int]) -> str: ...
    def parse(
        self, token_ids: Sequence[int], before: Sequence[int] | None = None, tools: Schemas | None = None
    ) -> Said: ...

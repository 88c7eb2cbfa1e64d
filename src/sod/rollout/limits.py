"""Where an episode ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class EpisodeLimits:
    """Where an episode ends. Tokens; the response counts tool output too."""

    max_turns: int
    max_turn_tokens: int
    max_response_tokens: int

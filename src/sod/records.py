"""What an episode leaves behind: frozen, torch-free records that every room shares.

Words are those of `docs/index.md`. A trajectory is a *token ledger*: what was sampled is stored as
sampled, tool output is appended as rendered, and nothing is ever re-encoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = ("system", "user", "assistant", "tool")


class SodError(Exception):
    """Stops the run. The message is one line that names the file, key or row, and the fix."""


@dataclass(frozen=True)
class ToolCall:
    """One call the assistant asked for. `arguments` is a JSON object."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Message:
    """One chat message; `tool_calls` only on assistant messages, `name` only on tool messages."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None


@dataclass(frozen=True)
class ToolResult:
    """What the model reads after a call.

    `error` is None for a success, else the short name of the model's own doing (`exception`,
    `timeout`, `invalid_json`, ...): a *tool error*, visible to the model and trainable.
    """

    text: str
    error: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Fault:
    """A failure of ours (sandbox down, worker lost): says nothing about the model, never trained on."""

    kind: str
    detail: str


class StopReason(StrEnum):
    """Why an episode ended."""

    ANSWER = "answer"  # an assistant turn without a tool call
    MAX_TURNS = "max_turns"  # the turn limit, with a tool call still open
    LENGTH = "length"  # the token limit of the turn or of the response
    FAULT = "fault"  # infrastructure failed; see `Trajectory.fault`


@dataclass(frozen=True)
class Turn:
    """One assistant message: its action tokens are `token_ids[start:stop]` of the trajectory."""

    index: int  # k, from 1
    start: int
    stop: int
    text: str
    calls: tuple[ToolCall, ...] = ()
    results: tuple[ToolResult, ...] = ()


@dataclass(frozen=True)
class Trajectory:
    """The record of one episode.

    `token_ids`, `turn_ids` and `sampled_logps` have equal length (tokens). `turn_ids[t]` is 0 at
    context and k at an action token of turn k; `sampled_logps[t]` (nats) is the log-probability
    under the distribution the token was sampled from, and 0.0 at context.
    """

    task_id: str
    sample: int
    prompt_tokens: int
    token_ids: tuple[int, ...]
    turn_ids: tuple[int, ...]
    sampled_logps: tuple[float, ...]
    turns: tuple[Turn, ...]
    stop: StopReason
    answer: str | None = None
    correct: bool = False
    reward: float = 0.0
    fault: Fault | None = None

    def __post_init__(self) -> None:
        if not len(self.token_ids) == len(self.turn_ids) == len(self.sampled_logps):
            raise ValueError(f"ledger of {self.task_id}#{self.sample} has columns of unequal length")

    @property
    def response_tokens(self) -> int:
        """Tokens after the prompt: actions and tool output."""
        return len(self.token_ids) - self.prompt_tokens

    @property
    def action_tokens(self) -> int:
        """Tokens the student sampled."""
        return sum(1 for k in self.turn_ids if k)

    @property
    def tool_results(self) -> tuple[ToolResult, ...]:
        """Every tool result of the episode, in order."""
        return tuple(result for turn in self.turns for result in turn.results)


@dataclass(frozen=True)
class Group:
    """The trajectories of one task in one step (GRPO's group), the faulted ones kept apart."""

    task_id: str
    trajectories: tuple[Trajectory, ...]
    faulted: tuple[Trajectory, ...] = field(default=())

"""What an environment is: a world that an episode acts in, one object for each episode that is under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, final, runtime_checkable

from sod.records import Message, Task, ToolCall, ToolResult

Action = str | tuple[ToolCall, ...]
"""What the model did in a turn: its calls of the environment's tools, or, without any call, what it said."""
Observation = str | Sequence[Message] | None
"""What an episode begins with: text for the last user message of the task's prompt, or a whole prompt."""
Texts = str | ToolResult | Sequence[str | ToolResult]
"""What the model reads after an action: the text of a user message, or one result for each call."""
ENVIRONMENT = "(environment)"
"""Stands for the environment among the tools of a run; no tool can have this name."""


class Environment(Protocol):
    """A world for one episode at a time; its methods may be coroutines.

    `reset` begins a new episode, whatever came before: objects are used again. All chance comes from its `seed`, a
    number of 63 bits, so that a run can be resumed and repeated.
    What a method raises is a fault of the environment: the episode is set apart, and the object is not used again.
    What the model did wrong is for the environment to say in its text, or by a `ToolResult` with an `error`.
    """

    def reset(self, task: Task, seed: int) -> tuple[Observation, Sequence[Any]]:
        """The first observation, and the tools of this episode: function schemas, or functions with type hints."""
        ...

    def step(self, action: Action) -> tuple[Texts, float, bool]:
        """What the model reads next, the reward for this action, and whether the episode is over."""
        ...


@runtime_checkable
class Replays(Protocol):
    """An environment that can take actions without looking at them: faster than a step for each, and always exact."""

    def replay(self, actions: Sequence[Action]) -> Any:
        """Bring the world, which was just reset, to where it is after these actions."""
        ...


@runtime_checkable
class RewardsAtEnd(Protocol):
    """An environment that also rewards the whole episode."""

    def final_reward(self) -> float:
        """Asked once when the episode is over, also where it was cut off at a limit; added to the steps' rewards."""
        ...


@runtime_checkable
class Closes(Protocol):
    """An environment with something to release."""

    def close(self) -> Any:
        """Release it. Called once, when the environment is not used again."""
        ...


@runtime_checkable
class OffersTasks(Protocol):
    """An environment that has tasks of its own, for runs that name no data."""

    def tasks(self, split: str) -> Sequence[Task | Mapping[str, Any]]:
        """The tasks of a split, `train` or `validation`: always the same ones. Of a mapping, `id` and `prompt` are
        read, and the whole of it is the task's `extra`.
        """
        ...


@runtime_checkable
class HasExpert(Protocol):
    """An environment that knows a way to its goal: for cold-start traces, and to see that its tasks can be done."""

    def expert(self) -> Action:
        """What a scripted expert does next, from the state that the episode is in. Changes nothing."""
        ...


@runtime_checkable
class HasChoices(Protocol):
    """An environment that can say what may be done: for players at random and at the terminal."""

    def choices(self) -> Sequence[Action]:
        """Actions that can be taken now, always in the same order; some of what is possible where there is no end."""
        ...


@final
@dataclass(frozen=True)
class Reset:
    """Begin an episode; answered by `Began`."""

    task: Task
    seed: int


@final
@dataclass(frozen=True)
class Replay:
    """Take these actions, and expect what the model read after each; answered by `Ended` with no reward."""

    actions: tuple[Action, ...]
    expected: tuple[tuple[str, ...], ...]


@final
@dataclass(frozen=True)
class Step:
    """Take an action; answered by `Stepped`."""

    action: Action


@final
@dataclass(frozen=True)
class Advise:
    """Say what a scripted expert would do, or what may be done (`HasExpert`, `HasChoices`); answered by `Advised`."""

    about: Literal["expert", "choices"]


@final
@dataclass(frozen=True)
class End:
    """The episode is over; answered by `Ended`."""


@final
@dataclass(frozen=True)
class WorldRequest:
    """Something that the environment of an episode has to do."""

    episode: str
    do: Reset | Replay | Step | Advise | End
    runner: ClassVar[str] = ENVIRONMENT


@final
@dataclass(frozen=True)
class Began:
    """The first observation and the function schemas of the tools."""

    observation: str | tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...]


@final
@dataclass(frozen=True)
class Stepped:
    """What came of an action: a result for each call, or one text for what was said."""

    results: tuple[ToolResult, ...]
    reward: float
    done: bool


@final
@dataclass(frozen=True)
class Advised:
    """Actions that can be taken now: the expert's alone, or what the environment offers."""

    actions: tuple[Action, ...]


@final
@dataclass(frozen=True)
class Ended:
    """What the environment gave for the whole episode."""

    reward: float = 0.0


WorldReply = Began | Stepped | Advised | Ended

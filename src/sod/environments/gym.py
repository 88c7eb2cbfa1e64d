"""Environments of Gymnasium (1.x) and GEM: text in, and `(observation, reward, terminated, truncated, info)` out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from sod.environments.base import Action
from sod.environments.replies import BadReplyError, shape_of
from sod.records import Task


@final
class GymEnvironment:
    """What the model says is the action, and the observation is its next user message.

    An environment with numbered actions (`gymnasium.spaces.Discrete`) takes the first whole number that is said and is
    one of them; where there is none, the model is told which there are, and nothing happens.
    `reset` gets the seed of the task's row (`seed`), which all episodes of a task share, else the episode's own.
    """

    def __init__(self, env: Any, where: str) -> None:
        self._env = env
        self._where = where

    def reset(self, task: Task, seed: int) -> tuple[str, Sequence[Any]]:
        """See `Environment.reset`; no tools."""
        returned = self._env.reset(seed=_fitting(task.extra.get("seed", seed)))
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise BadReplyError(f"reset returned {type(returned).__name__}; Gymnasium's returns (observation, info)")
        return _text(returned[0]), ()

    def step(self, action: Action) -> tuple[str, float, bool]:
        """See `Environment.step`."""
        chosen = _chosen(self._env, action if isinstance(action, str) else "")
        if chosen is None:
            return f"Say one whole number from {_offer(self._env)}.", 0.0, False
        returned = self._env.step(chosen)
        if not isinstance(returned, tuple) or len(returned) != 5:
            raise BadReplyError(
                f"step returned {shape_of(returned)}; Gymnasium's returns (observation, reward, terminated, truncated, "
                "info)"
            )
        observation, reward, terminated, truncated, _ = returned
        return _text(observation), reward, bool(terminated or truncated)

    def choices(self) -> list[str]:
        """The numbers of numbered actions; nothing in an environment that is spoken to."""
        return [str(number) for number in _numbers(_discrete(self._env))]

    def close(self) -> None:
        """Close what was wrapped."""
        close = getattr(self._env, "close", None)
        if callable(close):
            close()


def _fitting(seed: int) -> int:
    """The seed as NumPy's generators take it, and Python's."""
    return int(seed) % 2**32


def _text(observation: Any) -> str:
    """An observation as text: NumPy's numbers and arrays as they are printed."""
    return observation if isinstance(observation, str) else str(observation)


def _discrete(env: Any) -> Any | None:
    space = getattr(env, "action_space", None)
    return space if type(space).__name__ == "Discrete" else None


def _chosen(env: Any, text: str) -> Any | None:
    space = _discrete(env)
    if space is None:
        return text
    for word in text.replace(",", " ").replace(".", " ").split():
        if word.lstrip("-").isdecimal() and space.contains(int(word)):
            return int(word)
    return None


def _numbers(space: Any | None) -> range:
    """The actions of a `Discrete` space; none without one."""
    start = int(getattr(space, "start", 0))
    return range(start, start + int(getattr(space, "n", 0)))


def _offer(env: Any) -> str:
    numbers = _numbers(_discrete(env))
    return f"{numbers[0]} to {numbers[-1]}"


def _shape(value: Any) -> str:
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__

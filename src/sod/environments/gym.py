"""Environments of Gymnasium (1.x) and GEM: text in, and `(observation, reward, terminated, truncated, info)` out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from sod.environments.base import Action
from sod.environments.replies import BadReplyError, shape_of
from sod.records import SodError, Task

NOT_SAID = frozenset({"Box", "MultiDiscrete", "MultiBinary", "Dict", "Tuple", "Sequence", "Graph", "OneOf"})
"""Gymnasium's kinds of actions that are not one number or text."""


@final
class GymEnvironment:
    """What the model says is the action, and the observation is its next user message.

    An environment with numbered actions (`gymnasium.spaces.Discrete`) takes the first whole number that is said and is
    one of them; where there is none, the model is told which there are, and nothing happens.
    `reset` gets the seed of the task's row (`seed`), which all episodes of a task share, else the episode's own.
    """

    def __init__(self, env: Any, where: str) -> None:
        """Raises SodError, beginning with `where`, for actions that are neither said nor numbered."""
        space = type(getattr(env, "action_space", None)).__name__
        if space in NOT_SAID:
            raise SodError(
                f"{where}: its action space is {space}; here actions are text or one number (Discrete): wrap it, so "
                "that step takes what the model says"
            )
        self._env = env

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


def _offer(env: Any) -> str:
    space = _discrete(env)
    start = int(getattr(space, "start", 0))
    return f"{start} to {start + int(getattr(space, 'n', 1)) - 1}"

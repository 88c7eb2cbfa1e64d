"""What environments return, checked: a wrong form is told in the words of the one who wrote it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sod.environments.base import Action, Began, Stepped
from sod.records import Message, ToolResult


class BadReplyError(Exception):
    """An environment returned something of the wrong form: another try would not mend that."""


def began_with(returned: Any) -> Began:
    """What `reset` returned. Raises BadReplyError."""
    observation, tools = _parts(returned, 2, "reset", "(observation, tools)")
    schemas = tuple(_schema(tool) for tool in tools or ())
    names = [schema["function"]["name"] for schema in schemas]
    for name in names:
        if names.count(name) > 1:
            raise BadReplyError(f"reset returned two tools named {name!r}; give each a name of its own")
    return Began(_observation(observation), schemas)


def stepped_with(returned: Any, action: Action) -> Stepped:
    """What `step` returned for an action. Raises BadReplyError."""
    texts, reward, done = _parts(returned, 3, "step", "(text, reward, done)")
    given = [texts] if isinstance(texts, str | ToolResult) else texts
    if not isinstance(given, Sequence):
        raise BadReplyError(f"step returned {type(texts).__name__} in place of text")
    count = 1 if isinstance(action, str) else len(action)
    if len(given) != count:
        raise BadReplyError(f"step got {count} calls and returned {len(given)} results; return a list of one for each")
    return Stepped(tuple(_result(text) for text in given), reward_in(reward), bool(done))


def reward_in(reward: Any) -> float:
    """A reward as a finite number; None is 0. Raises BadReplyError."""
    if reward is None:
        return 0.0
    try:
        value = float(reward)
    except (TypeError, ValueError, OverflowError):
        raise BadReplyError(f"a reward is a number, not {type(reward).__name__}") from None
    if not math.isfinite(value):
        raise BadReplyError(f"a reward of {value} is none; return a finite number")
    return value


def same_texts(action: Action, texts: Sequence[str], expected: Sequence[str]) -> None:
    """Raises BadReplyError where a repeated action was not answered as it was the first time."""
    for text, before in zip(texts, expected, strict=True):
        if text != before:
            done = action if isinstance(action, str) else ", ".join(call.name for call in action)
            raise BadReplyError(
                f"answered {text[:60]!r} to {done[:60]!r}, and {before[:60]!r} with the same seed before; take all "
                "chance from the seed, or define replay(actions)"
            )


def _parts(returned: Any, count: int, method: str, form: str) -> tuple[Any, ...]:
    if not isinstance(returned, tuple) or len(returned) != count:
        raise BadReplyError(f"{method} returned {shape_of(returned)}; it has to return {form}")
    return returned


def shape_of(value: Any) -> str:
    """What a value is, in words for whoever returned it."""
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__


def _observation(observation: Any) -> str | tuple[Message, ...]:
    if observation is None or isinstance(observation, str):
        return observation or ""
    if isinstance(observation, Sequence) and all(isinstance(message, Message) for message in observation):
        return tuple(observation)
    raise BadReplyError(f"reset returned {type(observation).__name__} as observation; it is text, messages or None")


def _schema(tool: Any) -> Mapping[str, Any]:
    if not isinstance(tool, Mapping):
        raise BadReplyError(f"reset returned {type(tool).__name__} as a tool; tools are function schemas")
    function = tool.get("function") or tool
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadReplyError("reset returned a tool without a name; a function schema has name and parameters")
    return tool if "function" in tool else {"type": "function", "function": tool}


def _result(text: Any) -> ToolResult:
    if isinstance(text, ToolResult):
        return text
    if not isinstance(text, str):
        raise BadReplyError(f"step returned {type(text).__name__} in place of text; the model reads text")
    return ToolResult(text)

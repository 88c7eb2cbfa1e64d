"""The text of an episode that a harness would have read."""

from __future__ import annotations

from sod.evaluation.benchmarks.problem import Problem
from sod.records import Episode
from sod.rewards.base import verified_text


def whole_response(_: Problem, episode: Episode) -> str:
    """All turns with their thoughts and calls, and between them what the tools gave back."""
    parts: list[str] = []
    for turn in episode.trajectory.turns:
        parts.append(turn.text)
        parts += [f"\n<tool_response>\n{result.text}\n</tool_response>\n" for result in turn.results]
    return "".join(parts)


def last_turn(_: Problem, episode: Episode) -> str:
    """All that the last turn says, its thoughts too."""
    return episode.trajectory.turns[-1].text


def said(_: Problem, episode: Episode) -> str:
    """What the last turn says behind its thoughts, as a service gives it back."""
    return verified_text(episode)

"""A student that stops calling its tools in the course of a run: told once, with the step and the figures.

A method that pulls too hard may leave a student that says one thing over and over. The teacher gap may well shrink
then, and where nothing was solved before the reward does not fall: that no tool is called any more is what shows it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, final

from sod.recipe import Notice

EPISODES = 32
"""What is compared are the first steps of a run with this many episodes and its latest."""
CALLED = 0.25
"""The share of the first episodes that called a tool; below it nothing can be said of a fall."""
SEVERAL = 2.0
"""Turns of the first episodes; below it nothing can be said of their fall."""
LEFT = 0.1
"""The part of the first share, or of the turns after an episode's first, that is told of: so much or less."""

KEYS = ("tool_use", "turns", "reward")


@final
@dataclass
class ToolUse:
    """Looks at the metrics of every step and tells `notice` once where tool calls, or turns, have all but vanished.

    `span` are the steps that have `EPISODES` episodes.
    """

    span: int
    notice: Notice
    first: list[dict[str, float]] = field(default_factory=list)
    latest: list[dict[str, float]] = field(default_factory=list)
    told: bool = False

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in the rows of steps that were taken before, in order; what they showed was told then."""
        for row in rows:
            self._add(row)
            self.told = self.told or self._vanished()

    def look(self, step: int, metrics: Mapping[str, Any]) -> None:
        """The metrics of a step that was taken now."""
        self._add(metrics)
        if self.told or not self._vanished():
            return
        self.told = True
        began, now = _means(self.first), _means(self.latest)
        self.notice(
            f"step {step}: the student stops calling its tools: in its last {_steps(self.span)} {now['tool_use']:.0%} "
            f"of the episodes called one, with {now['turns']:.1f} turns an episode and a reward of "
            f"{now['reward']:+.2f}; in its first {_steps(self.span)} {began['tool_use']:.0%}, {began['turns']:.1f} and "
            f"{began['reward']:+.2f}. See trajectories/; where the tasks need tools, begin anew with a lower optim.lr, "
            "or from a checkpoint before it"
        )

    def _add(self, metrics: Mapping[str, Any]) -> None:
        if not all(isinstance(metrics.get(key), int | float) for key in KEYS):
            return
        figures = {key: float(metrics[key]) for key in KEYS}
        if len(self.first) < self.span:
            self.first.append(figures)
        else:
            self.latest = [*self.latest, figures][-self.span :]

    def _vanished(self) -> bool:
        """Whether hardly a call is left, or hardly a turn after the first, of those that there were."""
        if len(self.latest) < self.span:
            return False
        began, now = _means(self.first), _means(self.latest)
        if began["tool_use"] < CALLED:
            return False
        calls = now["tool_use"] <= LEFT * began["tool_use"]
        return calls or (began["turns"] >= SEVERAL and now["turns"] - 1 <= LEFT * (began["turns"] - 1))


def span_of(episodes: int) -> int:
    """The steps that have `EPISODES` episodes, where one has so many."""
    return math.ceil(EPISODES / episodes)


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: fmean(row[key] for row in rows) for key in KEYS}


def _steps(count: int) -> str:
    return "step" if count == 1 else f"{count} steps"

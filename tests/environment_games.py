"""Environments of the tests: the same small game in the forms of several libraries."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from sod.environments.base import Action
from sod.records import Task, ToolFault, ToolResult

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add a number to the counter.",
        "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
    },
}


FORMS = {
    "form": "0",
    "pair": ("0", False),
    "no text": (7, 0.0, False),
    "no texts": ([b"0"], 0.0, False),
    "few": ([], 0.0, False),
    "no number": ("0", "much", False),
}
"""What a step may not return."""


class Counter:
    """Add up to the goal, which comes of the seed or of the task: each hit earns 1."""

    def __init__(self, goal: int = 0, broken: str = "") -> None:
        self.goal = goal
        self.broken = broken
        self.total = 0

    def reset(self, task: Task, seed: int) -> tuple[str, Sequence[Any]]:
        if self.broken == "reset":
            raise KeyError("val1")
        if self.broken == "sleepy":
            time.sleep(60)
        self.goal_now = self.goal or int(task.extra.get("goal", seed % 7 + 1))
        self.total = 0
        return f"Count to {self.goal_now}.", self.tools()

    def tools(self) -> Sequence[Any]:
        if self.broken == "twins":
            return [ADD, ADD]
        if self.broken == "nameless":
            return [{"type": "function", "function": {"description": "Add."}}]
        if self.broken == "typeless":
            either = {"number": {"anyOf": [{"type": "integer"}, {"type": "string"}]}}
            return [{**ADD, "function": {**ADD["function"], "parameters": {"type": "object", "properties": either}}}]
        return [ADD]

    def step(self, action: Action) -> Any:
        if self.broken == "step":
            raise RuntimeError("the counter\nis jammed")
        if self.broken == "down":
            raise ToolFault("no counter")
        if self.broken == "hang":
            time.sleep(60)
        if self.broken == "nan":
            return "0", float("nan"), False
        if self.broken in FORMS:
            return FORMS[self.broken]
        if isinstance(action, str):
            return "Call add.", 0.0, False
        texts: list[str | ToolResult] = []
        for call in action:
            if not isinstance(call.arguments.get("number"), int):
                texts.append(ToolResult("a whole number", error="wrong_arguments"))
                continue
            self.total += call.arguments["number"]
            texts.append(f"The counter is at {self.total}.")
        done = self.total >= self.goal_now
        return texts, float(self.total == self.goal_now), done


class Parrot:
    """No tools: says back what it hears, until it hears the word."""

    async def reset(self, task: Task, seed: int) -> tuple[str, Sequence[Any]]:
        self.heard: list[str] = []
        return "Say the word.", ()

    async def step(self, action: Action) -> tuple[str, float, bool]:
        assert isinstance(action, str)
        self.heard.append(action)
        return f"You said {action}", 0.25, action == "word"

    def final_reward(self) -> float:
        return 1.0 if self.heard[-1] == "word" else 0.0


class TrlCounter:
    """A class as TRL's `environment_factory` takes it."""

    def __init__(self) -> None:
        self.total = 0
        self.goal = 0

    def reset(self, goal: int, **row: Any) -> str:
        self.total, self.goal = 0, goal
        return f"Count to {goal}."

    def add(self, number: int) -> str:
        """
        Add a number to the counter.

        Args:
            number: What to add.

        Returns:
            Where the counter is.
        """
        if number < 0:
            raise ValueError("only forwards")
        self.total += number
        return f"The counter is at {self.total}."

    def get_reward(self) -> float:
        return 1.0 if self.total == self.goal else 0.0


class Untyped(TrlCounter):
    """A tool without type hints."""

    def jump(self, far):  # type: ignore[no-untyped-def]
        """Jump.

        Args:
            far: How far.
        """
        return far


class Offering(Counter):
    """Has tasks of its own, or fails to say which."""

    def __init__(self, offers: str = "") -> None:
        super().__init__()
        self.offers = offers

    def tasks(self, split: str) -> Sequence[Any]:
        if self.offers == "hang":
            time.sleep(60)
        if self.offers == "raise":
            raise OSError("no list")
        return [{"id": f"{split}-own", "prompt": "Play.", "goal": 2}]


class GymCounter:
    """The five values of Gymnasium and GEM."""

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        self.goal = (seed or 0) % 7 + 1
        return f"Say {self.goal}.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        right = action.strip() == str(self.goal)
        return ("Right." if right else "Again."), float(right), right, False, {}


class Slow(Counter):
    """Takes a while to reset, and knows how many did so at the same time."""

    now = 0
    most = 0
    lock = threading.Lock()

    def reset(self, task: Task, seed: int) -> tuple[str, Sequence[Any]]:
        with Slow.lock:
            Slow.now += 1
            Slow.most = max(Slow.most, Slow.now)
        time.sleep(0.3)
        with Slow.lock:
            Slow.now -= 1
        return super().reset(task, seed)

    @classmethod
    def most_at_once(cls) -> int:
        """The most since this was asked last."""
        with cls.lock:
            most, cls.most = cls.most, 0
        return most

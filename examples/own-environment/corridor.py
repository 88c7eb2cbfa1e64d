"""An environment of one's own: a corridor with a door, and a student that walks to it.

    python corridor_world.py     # once: a small student that has seen a clumsy expert walk
    python corridor.py           # trains it in the corridor

What follows on the command line are keys of the recipe: `python corridor.py train.steps=5`.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import sod
from sod.records import ToolCall, ToolResult

WALK = {
    "name": "walk",
    "description": "Walk along the corridor.",
    "parameters": {
        "type": "object",
        "properties": {"direction": {"type": "string", "enum": ["left", "right"]}, "steps": {"type": "integer"}},
        "required": ["direction", "steps"],
    },
}
LENGTH = 20


class Corridor:
    """Places 1 to 20. The episode is over, and earns 1, where the student stands at the door."""

    def __init__(self) -> None:
        self.at = self.door = 0

    def tasks(self, split: str) -> list[Mapping[str, Any]]:
        """Every way there is; one in four is kept for evaluations."""
        places = range(1, LENGTH + 1)
        ways = [{"id": f"{at}-{door}", "at": at, "door": door} for at in places for door in places if at != door]
        return [way for number, way in enumerate(ways) if (number % 4 == 3) == (split != "train")]

    def reset(self, task: sod.Task, seed: int) -> tuple[str, Sequence[Any]]:
        """The first thing that the student reads, and its tools. There is no luck here, so the seed is not needed."""
        self.at, self.door = task.extra["at"], task.extra["door"]
        return self.seen(), [WALK]

    def step(self, action: str | tuple[ToolCall, ...]) -> tuple[str | list[str | ToolResult], float, bool]:
        """What the student reads next, what it earns, and whether it is there."""
        if isinstance(action, str):
            return "Call walk.", 0.0, False
        results = [self._walked(call.arguments.get("direction"), call.arguments.get("steps")) for call in action]
        there = self.at == self.door
        return results, float(there), there

    def seen(self) -> str:
        """Where the door is from here."""
        if self.at == self.door:
            return "You are at the door."
        return f"The door is {abs(self.door - self.at)} to the {'right' if self.door > self.at else 'left'}."

    def _walked(self, direction: object, steps: object) -> str | ToolResult:
        if direction not in ("left", "right") or not isinstance(steps, int):
            return ToolResult("Error: a direction, left or right, and whole steps.", error="bad_arguments")
        self.at = min(max(self.at + (steps if direction == "right" else -steps), 1), LENGTH)
        return self.seen()


if __name__ == "__main__":
    before = sod.evaluate("runs/start", recipe="recipe.yaml", environment=Corridor)
    run = sod.train("recipe.yaml", sys.argv[1:], environment=Corridor, run="runs/corridor")
    after = sod.evaluate(run, environment=Corridor)
    print(f"at the door: {before.episodes['reward']:.3f} before, {after.episodes['reward']:.3f} after")

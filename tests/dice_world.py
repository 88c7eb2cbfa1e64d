"""A world with chance in every answer, which notes when it is asked, for runs that are killed in mid-step."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sod.environments.base import Action
from sod.records import Task


class Dice:
    """Says what was rolled; chance comes from the seed alone, and an object is used again."""

    def __init__(self, notes: str, seconds: float = 0.0) -> None:
        self.notes, self.seconds = Path(notes), seconds

    def reset(self, task: Task, seed: int) -> tuple[str, Sequence[Any]]:
        self.random, self.total = random.Random(seed), 0
        return f"You have {self.random.randint(0, 9)}.", ()

    def step(self, action: Action) -> tuple[str, float, bool]:
        with self.notes.open("a") as file:
            file.write("step\n")
        time.sleep(self.seconds)
        rolled = self.random.randint(1, 6)
        self.total += rolled
        return f"You rolled {rolled}.", (rolled + 0.1 * (len(str(action)) % 7)) / 10, self.total > 9

    def asked(self) -> int:
        """How often it was asked so far."""
        return self.notes.read_text().count("\n") if self.notes.exists() else 0

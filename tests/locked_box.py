"""A class as TRL's `environment_factory` takes it, for a test that trains with it there and here."""

from __future__ import annotations

from typing import Any


class LockedBox:
    """A box, and a number that opens it."""

    def __init__(self) -> None:
        self.key = self.tries = 0
        self.open_now = False

    def reset(self, key: int, **row: Any) -> str:
        """A box that is locked with this number."""
        self.key, self.tries, self.open_now = key, 0, False
        return f"The key is {key}."

    def turn(self, number: int) -> str:
        """
        Turn the lock.

        Args:
            number: The number to turn it to.

        Returns:
            What the box does.
        """
        self.tries += 1
        if number > 9:
            raise ValueError("the lock ends at 9")
        self.open_now = self.open_now or number == self.key
        return f"Try {self.tries}: {'open' if self.open_now else 'locked'}."

    def get_reward(self) -> float:
        """1 for an open box, and a little for the try."""
        return float(self.open_now) + 0.1 * min(self.tries, 2)

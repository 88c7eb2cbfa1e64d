"""Seconds by phase: what all parts of a run measure their time with.

A device works on after the calls that gave it work have returned. `settle` waits for it: a phase then holds its own
work, all of it. This room knows no device, so whoever has one hands `settle` in (`sod.models.settle`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import final


def nothing_to_wait_for() -> None:
    """The `settle` of what works on the CPU alone: when a call returns, its work is done."""


@final
@dataclass
class Clock:
    """Adds up wall-clock seconds under the names of phases, in the order in which they first came.

    `settle` returns when all work under way is done; it is called at both ends of what is timed.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    settle: Callable[[], None] = nothing_to_wait_for

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds spent inside to `phase`; nothing where the inside raises."""
        self.settle()
        began = time.perf_counter()
        yield
        self.settle()
        self.add(phase, time.perf_counter() - began)

    def add(self, phase: str, seconds: float) -> None:
        """Count seconds that were taken elsewhere."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    @property
    def total(self) -> float:
        """All phases together."""
        return sum(self.seconds.values())

"""Seconds by phase: what all parts of a run measure their time with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import final


@final
@dataclass
class Clock:
    """Adds up wall-clock seconds under the names of phases, in the order in which they first came."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds spent inside to `phase`; nothing where the inside raises."""
        began = time.perf_counter()
        yield
        self.add(phase, time.perf_counter() - began)

    def add(self, phase: str, seconds: float) -> None:
        """Count seconds that were taken elsewhere."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    @property
    def total(self) -> float:
        """All phases together."""
        return sum(self.seconds.values())

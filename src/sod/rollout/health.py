"""Whether the infrastructure works: a probe of every tool before the first step, and a limit on faulted episodes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from sod.records import Fault, SodError
from sod.tools.base import Tool


@final
@dataclass
class FaultWindow:
    """Stops a run whose infrastructure fails too often.

    At most `limit` of the last `episodes` episodes may have faulted; steps are counted whole, so the window
    holds the newest steps that together have that many, and one step where a step alone has more.
    """

    limit: float
    episodes: int
    _steps: deque[tuple[int, int]] = field(default_factory=deque)  # (episodes, faults) of each
    _latest: Fault | None = None

    def add(self, played: int, faults: list[Fault]) -> None:
        """Count a step's episodes. Raises SodError when the window holds too many faults."""
        self._steps.append((played, len(faults)))
        self._latest = faults[-1] if faults else self._latest
        while sum(count for count, _ in self._steps) - self._steps[0][0] >= self.episodes:
            self._steps.popleft()
        total = sum(count for count, _ in self._steps)
        faulted = sum(count for _, count in self._steps)
        too_many = faulted > self.limit * max(total, self.episodes) or (faulted == total > 0 and self.limit < 1)
        # The latest fault may be an earlier step's: a large good step that leaves the window makes the rest worse.
        if too_many and self._latest is not None:
            raise SodError(
                f"{faulted} of the last {total} episodes faulted, more than rollout.max_fault_rate={self.limit:g} of "
                f"rollout.fault_window={self.episodes}; the latest: {self._latest.kind}: {self._latest.detail}"
            )


def refuse_unhealthy(tools: Mapping[str, Tool]) -> None:
    """Probe every tool once, before anything is trained. Raises SodError naming the tool and what is wrong."""
    for name, tool in tools.items():
        if (fault := tool.probe()) is not None:
            raise SodError(f"tool {name} does not work: {fault.kind}: {fault.detail}")

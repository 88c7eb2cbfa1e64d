"""A world whose tool does not always answer: some calls get an error although nothing is wrong with them.

The error is part of the world, as a service that is down is to its users: the model reads it and is trained on what
it does next. It is never a `Fault`, which would be a failure of ours and no training data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, final

from sod.outcomes import filled
from sod.records import Fault, Task, ToolCall, ToolResult
from sod.seeds import derive
from sod.tools.base import Tool, ToolRequest

ERROR = "unavailable"
UNAVAILABLE = ToolResult(f"Error: {ERROR}", ERROR)


@dataclass
class _Episode:
    """How many calls an episode has made, and those the wrapped tool has faulted on so far."""

    calls: int = 0
    faulted: list[ToolCall] = field(default_factory=list)


@final
class UnreliableTool:
    """Answers a share `rate` of the calls to `tool` with the tool error `unavailable` instead of running them.

    Which ones is a function of `seed`, the episode's name and the number of the call within the episode: neither the
    schedule nor the calls of other episodes matter. Calls that `tool` would refuse are counted and hit like any other.
    Faults of `tool` pass through. A call that comes again after its fault is the same call: it goes to `tool` once
    more, and the numbers of later calls stay as they were. (Nothing but a retry can follow a fault in an episode.)
    `tool` is closed with this. Raises ValueError for a rate outside 0 to 1.
    """

    def __init__(self, tool: Tool, rate: float, seed: int) -> None:
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"a share of calls lies between 0 and 1, not at {rate}")
        self.tool = tool
        self.rate = rate
        self._seed = seed
        self._episodes: defaultdict[str, _Episode] = defaultdict(_Episode)
        self._lock = Lock()  # an asynchronous rollout runs calls of several episodes at a time

    @property
    def name(self) -> str:
        """The wrapped tool's."""
        return self.tool.name

    @property
    def schema(self) -> Mapping[str, Any]:
        """The wrapped tool's: the model is not told that calls may fail."""
        return self.tool.schema

    @property
    def keeps_state(self) -> bool:
        """Whether the wrapped tool does."""
        return self.tool.keeps_state

    def start(self, episodes: Sequence[tuple[str, Task]]) -> None:
        """Let the wrapped tool know; the count of an episode's calls begins with its first call."""
        self.tool.start(episodes)

    def run(self, requests: Sequence[ToolRequest]) -> list[ToolResult | Fault]:
        """Run the requests that are not hit; see `Tool.run`. Tool errors: `unavailable`, and the wrapped tool's."""
        with self._lock:
            hits: list[ToolResult | Fault | None] = [
                UNAVAILABLE if self._is_hit(request) else None for request in requests
            ]
        outcomes: list[ToolResult | Fault] = filled(hits, requests, self.tool.run)
        with self._lock:
            for request, outcome in zip(requests, outcomes, strict=True):
                if isinstance(outcome, Fault):
                    self._episodes[request.episode].faulted.append(request.call)
        return outcomes

    def probe(self) -> Fault | None:
        """Whether the wrapped tool is well."""
        return self.tool.probe()

    def finish(self, episodes: Sequence[str]) -> None:
        """Forget the calls of these episodes, and let the wrapped tool forget its own."""
        with self._lock:
            for episode in episodes:
                self._episodes.pop(episode, None)
        self.tool.finish(episodes)

    def close(self) -> None:
        """Close the wrapped tool. Safe to call twice."""
        self.tool.close()

    def _is_hit(self, request: ToolRequest) -> bool:
        """Count a new call and draw for it. One that faulted before was not hit then, nor is it now."""
        episode = self._episodes[request.episode]
        if request.call in episode.faulted:
            episode.faulted.remove(request.call)
            return False
        episode.calls += 1
        return derive(self._seed, request.episode, episode.calls) < self.rate * 2**63

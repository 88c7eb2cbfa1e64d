"""The tool interface: many calls in, one result or fault each, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

from sod.records import Fault, Task, ToolCall, ToolResult


@final
@dataclass(frozen=True)
class ToolRequest:
    """One call of one episode. `episode` names the conversation (for tools that keep state) about `task`.

    `deadline` is the value of `time.monotonic` by which the call should have ended; None: the tool's own limit.
    """

    episode: str
    call: ToolCall
    task: Task
    deadline: float | None = None

    @property
    def runner(self) -> str:
        """Who runs it: the tool of this name."""
        return self.call.name


@runtime_checkable
class Tool(Protocol):
    """Something the model may call. Its methods are called from several threads at a time."""

    @property
    def name(self) -> str:
        """The name the model uses in its calls."""
        ...

    @property
    def schema(self) -> Mapping[str, Any]:
        """The OpenAI-style function schema that the chat template shows to the model."""
        ...

    @property
    def keeps_state(self) -> bool:
        """Whether a call may find what earlier calls of its episode left: such calls cannot be replayed as text."""
        ...

    def start(self, episodes: Sequence[tuple[str, Task]]) -> None:
        """These conversations begin: called once for each, by name and task, before its first call.

        An episode may well make no call. Never raises; what goes wrong is a fault of the calls to come.
        """
        ...

    def run(self, requests: Sequence[ToolRequest]) -> list[ToolResult | Fault]:
        """Execute all requests concurrently; one entry each, in the order given.

        What the model did wrong is a `ToolResult` with `error` set; what *we* did wrong is a
        `Fault`. Never raises for either.
        """
        ...

    def probe(self) -> Fault | None:
        """One trivial call whose answer is known: None when it came, else what is wrong."""
        ...

    def finish(self, episodes: Sequence[str]) -> None:
        """These conversations are over: whatever was kept for them may go. Unknown names are ignored."""
        ...

    def close(self) -> None:
        """Release processes and files. Safe to call twice."""
        ...

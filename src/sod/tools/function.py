"""A tool of the user's own: a Python function, sync or async, or a class with the state of one episode."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from functools import partial
from typing import Any, final

from sod.asynchronous import Called, LeftBehind, LoopBlockedError, Raised, TimedOut, called, error_line, loop_thread
from sod.records import Fault, FaultKind, Task, ToolFault, ToolResult
from sod.tools.base import ToolRequest
from sod.tools.objects import EpisodeObjects
from sod.tools.results import Cut, text_of, tool_error
from sod.tools.signature import BadArgumentsError, signature_of

HANGING = 64
"""Sync calls that may run on after their time; with more, the tool is taken for broken."""


@final
@dataclass(frozen=True)
class CallLimits:
    """Of the calls of a tool: `seconds` of each, and how many run at a time."""

    seconds: float = 30.0
    concurrency: int = 16


@final
class FunctionTool:
    """Calls `function` with the arguments that the model gives, and shows what it returns, as `cut` leaves it.

    What it raises is the tool error `exception`, but for `ToolFault`, which is a fault; what it returns must be text or
    JSON values, anything else is a fault. A class is made anew for every episode that calls it: `start(task)` before
    the first call, `finish()` after the episode, where it has them; the calls of an episode then run in order.
    `notice` hears of a `finish` that fails. Raises SodError, beginning with `where`, for what cannot be a tool.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        limits: CallLimits,
        cut: Cut,
        notice: Callable[[str], None],
        where: str,
    ) -> None:
        self._name = name
        self._where = where
        self._function = function
        self._signature = signature_of(function, name, where)
        self._limits = limits
        self._cut = cut
        self._notice = notice
        self._told = False
        self._left_behind = LeftBehind()
        self._objects: EpisodeObjects | None = None
        if inspect.isclass(function):
            self._objects = EpisodeObjects(function, limits.seconds, self._tell, where)
        self._slots: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None
        self._finishing: list[Future[None]] = []

    @property
    def name(self) -> str:
        """What the model calls it."""
        return self._name

    @property
    def schema(self) -> Mapping[str, Any]:
        """Of the function's type hints and docstring."""
        return self._signature.schema

    @property
    def keeps_state(self) -> bool:
        """Whether it is a class, of which every episode has an object."""
        return self._objects is not None

    def start(self, episodes: Sequence[tuple[str, Task]]) -> None:
        """Nothing to do: an object is made for the first call, and many an episode makes none."""

    def run(self, requests: Sequence[ToolRequest]) -> list[ToolResult | Fault]:
        """Call the function for all requests, side by side; see `Tool.run`.

        Tool errors: `bad_arguments`, `exception`, `timeout`.
        """
        if self._left_behind.count() > HANGING:
            return [
                self._fault(f"more than {HANGING} of its calls never ended; give it a time limit of its own")
            ] * len(requests)
        try:
            return loop_thread().run(self._all(requests))
        except LoopBlockedError:
            blocked = "it, or other async code, keeps the event loop without `await`; make what waits a plain `def`"
            return [self._fault(blocked)] * len(requests)

    def probe(self) -> Fault | None:
        """None: no call is known that does no harm."""
        return None

    def finish(self, episodes: Sequence[str]) -> None:
        """Let the objects of these episodes finish, in the background."""
        if self._objects is not None:
            self._finishing = [one for one in self._finishing if not one.done()]
            self._finishing.append(loop_thread().begin(self._objects.finish(list(episodes), self._left_behind)))

    def close(self) -> None:
        """Finish the objects that are left, and wait for all that finish. Safe to call twice."""
        if self._objects is not None:
            self._finishing.append(loop_thread().begin(self._objects.finish(None, self._left_behind)))
            wait_for(self._finishing, timeout=2 * self._limits.seconds)
            self._finishing = []

    async def _all(self, requests: Sequence[ToolRequest]) -> list[ToolResult | Fault]:
        """One outcome a request. Those of an episode wait for each other where they share an object."""
        chains: dict[object, list[int]] = {}
        for at, request in enumerate(requests):
            chains.setdefault(request.episode if self.keeps_state else at, []).append(at)
        outcomes: dict[int, ToolResult | Fault] = {}

        async def follow(chain: Sequence[int]) -> None:
            for at in chain:
                outcomes[at] = await self._one(requests[at])

        await asyncio.gather(*(follow(chain) for chain in chains.values()))
        return [outcomes[at] for at in range(len(requests))]

    async def _one(self, request: ToolRequest) -> ToolResult | Fault:
        try:
            arguments = self._signature.read(request.call.arguments, request.task)
        except BadArgumentsError as error:
            return tool_error("bad_arguments", self._cut(str(error)))
        async with self._slot():
            outcome = await self._called(request, arguments)
        if isinstance(outcome, Fault):
            return outcome
        if isinstance(outcome, TimedOut):
            return self._timed_out(request.episode, outcome)
        return self._raised(outcome) if isinstance(outcome, Raised) else self._shown(outcome.value, outcome.seconds)

    async def _called(self, request: ToolRequest, arguments: Mapping[str, Any]) -> Called | Fault:
        """Call the function, or the `__call__` of the episode's object, which is a fault where there can be none."""
        if self._objects is None:
            function: Any = self._function
            whole = function if inspect.isroutine(function) else function.__call__
            return await called(partial(whole, **arguments), self._seconds(request), self._left_behind)
        kept = await self._objects.of(request.episode, request.task, self._left_behind)
        if isinstance(kept, Raised | TimedOut):
            return self._unstarted(kept)
        call = partial(kept.value.__call__, **arguments)
        return await called(call, self._seconds(request), self._left_behind, kept.thread)

    def _unstarted(self, outcome: Raised | TimedOut) -> Fault:
        """Not the model's doing, whatever went wrong: it called nothing yet."""
        if isinstance(outcome, Raised):
            error = outcome.error
            retryable = isinstance(error, ToolFault) and error.retryable
            return self._fault(f"its start raised {error_line(error)}", retryable)
        return self._fault(f"its start was not through in {self._limits.seconds:g} s")

    def _timed_out(self, episode: str, outcome: TimedOut) -> ToolResult:
        said = f"stopped after {self._limits.seconds:g} s"
        if self._objects is not None:
            # What was left behind may go on changing the object: the episode gets another one.
            self._objects.abandon(episode, self._left_behind)
            said += "; what earlier calls left is gone"
        return tool_error("timeout", said, outcome.seconds)

    def _raised(self, outcome: Raised) -> ToolResult | Fault:
        error = outcome.error
        if isinstance(error, ToolFault):
            return self._fault(str(error) or "it raised ToolFault", error.retryable)
        return ToolResult(self._cut(text_of(f"Error: {error_line(error)}")), "exception", outcome.seconds)

    def _shown(self, value: Any, seconds: float) -> ToolResult | Fault:
        try:
            return ToolResult(self._cut(text_of(value)), None, seconds)
        except TypeError as error:
            wanted = "return a string, or numbers, lists and mappings of them"
            return Fault(FaultKind.BAD_REPLY, f"{self._where}: returned a {error}; {wanted}", retryable=False)

    def _seconds(self, request: ToolRequest) -> float:
        """The time that a call has."""
        if request.deadline is None:
            return self._limits.seconds
        return max(0.0, min(self._limits.seconds, request.deadline - time.monotonic()))

    def _slot(self) -> asyncio.Semaphore:
        """What lets so many calls run at a time; another one where the event loop is another."""
        loop = asyncio.get_running_loop()
        if self._slots is None or self._slots[0] is not loop:
            self._slots = (loop, asyncio.Semaphore(self._limits.concurrency))
        return self._slots[1]

    def _fault(self, detail: str, retryable: bool = False) -> Fault:
        return Fault(FaultKind.TOOL, f"{self._where}: {detail}", retryable)

    def _tell(self, problem: str) -> None:
        """Once: what fails after one episode fails after every other."""
        if not self._told:
            self._told = True
            self._notice(f"{self._where}: {problem}; episodes are over by then, so that changes nothing of them")

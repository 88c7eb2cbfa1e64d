"""Tool calls, and what environments do, in the background, while other episodes decode. Faults are tried again here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol, final

from sod.outcomes import retried
from sod.records import Fault, may_retry
from sod.rollout.asks import AskTools, Request, Result

ToolReply = tuple[str, list[Result] | Fault]
"""An episode, and what its turn's calls gave."""

Outcomes = tuple[list[Result | Fault], int]
"""One outcome for each request to a tool, and how many requests were run again."""


class Runner(Protocol):
    """What runs requests: a tool, or all environments of a run."""

    def run(self, requests: Sequence[Any]) -> Sequence[Any]:
        """One result or `Fault` for each request, in order; see `Tool.run`."""
        ...


@final
@dataclass(frozen=True, eq=False)
class _Batch:
    """Calls that were started together: whose they are, and the work of each tool among them."""

    asks: Sequence[tuple[str, AskTools]]
    running: Mapping[str, Future[Outcomes]]

    def done(self) -> bool:
        return all(future.done() for future in self.running.values())

    def replies(self) -> list[ToolReply]:
        """Every episode's results in the order of its calls; one fault among them is its reply."""
        outcomes = {name: iter(future.result()[0]) for name, future in self.running.items()}
        replies: list[ToolReply] = []
        for episode, ask in self.asks:
            mine = [next(outcomes[request.runner]) for request in ask.requests]
            results = [outcome for outcome in mine if not isinstance(outcome, Fault)]
            fault = next((outcome for outcome in mine if isinstance(outcome, Fault)), None)
            replies.append((episode, results if fault is None else fault))
        return replies

    def second_runs(self) -> int:
        return sum(future.result()[1] for future in self.running.values())


@final
class ToolExecutor:
    """Runs the calls of many episodes; a context manager that waits for what is still under way.

    Every tool has `threads` threads of its own, so a slow tool never holds up the calls of another one. A batch is
    through when all its tools are.
    """

    def __init__(self, tools: Mapping[str, Runner], retries: int, threads: int) -> None:
        self._tools = tools
        self._retries = retries
        self._pools = {name: ThreadPoolExecutor(threads, f"tool-{name}") for name in tools}
        self._batches: list[_Batch] = []
        self.retried = 0

    def __enter__(self) -> ToolExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)

    def start(self, asks: Sequence[tuple[str, AskTools]]) -> None:
        """Begin with the calls of these episodes, as one batch: every tool gets its calls together."""
        if not asks:
            return
        by_tool: dict[str, list[Request]] = {}
        for _, ask in asks:
            for request in ask.requests:
                by_tool.setdefault(request.runner, []).append(request)
        running = {name: self._pools[name].submit(self._run, name, mine) for name, mine in by_tool.items()}
        self._batches.append(_Batch(list(asks), running))

    def take_all(self) -> list[ToolReply]:
        """Wait for every batch; the replies in the order in which the batches were started."""
        return self._take(self._batches)

    def take_ready(self, block: bool) -> list[ToolReply]:
        """The replies of the batches that are through; with `block`, wait until one is."""
        while block and self._batches and not any(batch.done() for batch in self._batches):
            wait(self._unfinished(), return_when=FIRST_COMPLETED)
        return self._take([batch for batch in self._batches if batch.done()])

    def _unfinished(self) -> list[Future[Outcomes]]:
        unfinished = []
        for batch in self._batches:
            unfinished += [future for future in batch.running.values() if not future.done()]
        return unfinished

    def _take(self, batches: Sequence[_Batch]) -> list[ToolReply]:
        replies = [reply for batch in batches for reply in batch.replies()]
        self.retried += sum(batch.second_runs() for batch in batches)
        self._batches = [batch for batch in self._batches if batch not in batches]
        return replies

    def _run(self, name: str, requests: Sequence[Request]) -> Outcomes:
        return retried(requests, self._tools[name].run, may_retry, self._retries)

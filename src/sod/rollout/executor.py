"""Tool calls in the background, while other episodes decode. Faulted calls are tried again here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import final

from sod.records import Fault, FaultKind, ToolResult
from sod.rollout.episode import AskTools
from sod.tools.base import Tool, ToolRequest

Answer = tuple[str, list[ToolResult] | Fault]
"""An episode, and what its turn's calls gave."""


@final
class ToolExecutor:
    """Runs the calls of many episodes; a context manager that waits for what is still under way."""

    def __init__(self, tools: Mapping[str, Tool], retries: int, threads: int) -> None:
        self._tools = tools
        self._retries = retries
        self._pool = ThreadPoolExecutor(threads, "tools")
        self._running: list[Future[tuple[list[Answer], int]]] = []
        self.retried = 0

    def __enter__(self) -> ToolExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def start(self, asks: Sequence[tuple[str, AskTools]]) -> None:
        """Begin with the calls of these episodes, as one batch."""
        if asks:
            self._running.append(self._pool.submit(self._run, list(asks)))

    def take_all(self) -> list[Answer]:
        """Wait for every batch; the answers in the order in which the batches were started."""
        return self._take(len(self._running))

    def take_ready(self, block: bool) -> list[Answer]:
        """The answers of the batches that are through; with `block`, wait until one is."""
        if block and self._running:
            wait(self._running, return_when=FIRST_COMPLETED)
        through = [future for future in self._running if future.done()]
        self._running = through + [future for future in self._running if future not in through]
        return self._take(len(through))

    def _take(self, count: int) -> list[Answer]:
        batches, self._running = [future.result() for future in self._running[:count]], self._running[count:]
        self.retried += sum(retried for _, retried in batches)
        return [answer for answers, _ in batches for answer in answers]

    def _run(self, asks: Sequence[tuple[str, AskTools]]) -> tuple[list[Answer], int]:
        """The answers, and how many calls were tried again. One fault among an episode's calls is its answer."""
        outcomes, retried = self._execute([request for _, ask in asks for request in ask.requests])
        answers: list[Answer] = []
        done = 0
        for episode, ask in asks:
            mine = outcomes[done : done + len(ask.requests)]
            done += len(mine)
            results = [outcome for outcome in mine if isinstance(outcome, ToolResult)]
            fault = next((outcome for outcome in mine if isinstance(outcome, Fault)), None)
            answers.append((episode, results if fault is None else fault))
        return answers, retried

    def _execute(self, requests: Sequence[ToolRequest]) -> tuple[list[ToolResult | Fault], int]:
        """Run every request with its tool, and the faulted ones again up to `retries` times."""
        outcomes: list[ToolResult | Fault] = [Fault(FaultKind.SANDBOX, "not run")] * len(requests)
        waiting = list(range(len(requests)))
        retried = 0
        for attempt in range(1 + self._retries):
            retried += len(waiting) if attempt else 0
            for name, tool in self._tools.items():
                mine = [at for at in waiting if requests[at].call.name == name]
                if mine:
                    for at, outcome in zip(mine, tool.run([requests[at] for at in mine]), strict=True):
                        outcomes[at] = outcome
            waiting = [at for at in waiting if isinstance(fault := outcomes[at], Fault) and fault.retryable]
            if not waiting:
                break
        return outcomes, retried

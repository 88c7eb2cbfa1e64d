"""Tool calls in the background: real tools side by side, results in order, faults retried where they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from threading import Barrier
from typing import Any

import pytest

from sod.records import Fault, FaultKind, Task, ToolCall, ToolResult
from sod.rollout.episode import AskTools
from sod.rollout.executor import ToolExecutor
from sod.tools.base import Tool, ToolRequest
from sod.tools.python import SCHEMA, PythonTool
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.local import LocalSandbox
from support import tool_request

DOWN = Fault(FaultKind.SANDBOX, "down")


@pytest.fixture(scope="module")
def tools() -> Iterator[dict[str, Tool]]:
    """Two real Python tools, each with a sandbox of its own."""

    def real() -> PythonTool:
        return PythonTool(LocalSandbox(ProgramLimits(seconds=30.0), workers=1, preload=[]))

    with closing(real()) as slow, closing(real()) as quick:
        yield {"slow": slow, "quick": quick}


def ask(*calls: tuple[str, str]) -> AskTools:
    """The calls of one turn, each a tool's name and its code."""
    return AskTools(tuple(tool_request("e", ToolCall(name, {"code": code})) for name, code in calls))


def texts(replies: Sequence[tuple[str, Any]]) -> list[tuple[str, list[str]]]:
    return [(episode, [result.text for result in reply]) for episode, reply in replies]


def test_a_slow_tool_does_not_hold_up_another(tools: Mapping[str, Tool]) -> None:
    """More calls to the slow tool than it has threads, all started before: the quick one's answer comes first."""
    with ToolExecutor(tools, retries=0, threads=2) as executor:
        for n in range(3):
            executor.start([(f"s{n}", ask(("slow", f"import time; time.sleep(1); print({n})")))])
        executor.start([("q", ask(("quick", "print(7)")))])
        assert texts(executor.take_ready(block=True)) == [("q", ["7"])]
        assert texts(executor.take_all()) == [(f"s{n}", [str(n)]) for n in range(3)]
        assert executor.take_all() == executor.take_ready(block=True) == []


def test_results_keep_the_order_of_the_calls(tools: Mapping[str, Tool]) -> None:
    """Calls of one turn to two tools, interleaved, in a batch with another episode's."""
    turn = ask(("slow", "print(1)"), ("quick", "print(2)"), ("slow", "print(3)"), ("quick", "print(4)"))
    with ToolExecutor(tools, retries=0, threads=1) as executor:
        executor.start([("a", turn), ("b", ask(("quick", "print(5)"))), ("c", ask(("slow", "print(6)")))])
        assert texts(executor.take_all()) == [("a", ["1", "2", "3", "4"]), ("b", ["5"]), ("c", ["6"])]
    assert executor.retried == 0


@dataclass
class Meeting:
    """A tool whose calls end only once another tool's are under way, too; it faults `faults` times before."""

    barrier: Barrier
    faults: int = 0
    batches: list[list[ToolRequest]] = field(default_factory=list)
    name: str = "any"
    schema: Mapping[str, Any] = field(default_factory=lambda: SCHEMA)
    keeps_state: bool = False

    def start(self, episodes: Sequence[tuple[str, Task]]) -> None:
        """Nothing to prepare."""

    def run(self, requests: Sequence[ToolRequest]) -> list[ToolResult | Fault]:
        self.batches.append(list(requests))
        if len(self.batches) == 1:
            self.barrier.wait(timeout=60)
        faulted = len(self.batches) <= self.faults
        return [DOWN if faulted else ToolResult(request.call.arguments["code"]) for request in requests]

    def probe(self) -> Fault | None:
        return None

    def finish(self, episodes: Sequence[str]) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is open."""


def test_tools_of_one_batch_run_side_by_side() -> None:
    """Each waits for the other to have begun; the one that faults is tried again without the other."""
    barrier = Barrier(2)
    good, flaky = Meeting(barrier), Meeting(barrier, faults=2)
    with ToolExecutor({"good": good, "flaky": flaky}, retries=2, threads=1) as executor:
        executor.start([("a", ask(("good", "1"), ("flaky", "2"))), ("b", ask(("flaky", "3")))])
        assert texts(executor.take_all()) == [("a", ["1", "2"]), ("b", ["3"])]
    assert (len(good.batches), len(flaky.batches), executor.retried) == (1, 3, 4)


def test_a_fault_that_lasts_is_the_episodes_reply() -> None:
    """Of every episode that has such a call, whatever its other calls gave."""
    barrier = Barrier(2)
    with ToolExecutor({"good": Meeting(barrier), "bad": Meeting(barrier, faults=9)}, 1, 1) as executor:
        executor.start([("a", ask(("good", "1"), ("bad", "2"))), ("b", ask(("good", "3")))])
        a, b = executor.take_all()
    assert a == ("a", DOWN)
    assert texts([b]) == [("b", ["3"])]
    assert executor.retried == 1


def test_an_error_of_a_tool_is_raised() -> None:
    """A broken tool stops the run: it is neither a result nor a fault."""
    broken = Meeting(Barrier(1))
    with ToolExecutor({"python": broken}, retries=2, threads=1) as executor:
        executor.start([("a", AskTools((tool_request("e", ToolCall("python", {})),)))])
        with pytest.raises(KeyError):
            executor.take_all()

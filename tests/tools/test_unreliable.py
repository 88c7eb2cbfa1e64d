"""A tool that is down now and then: which calls are hit, and what of a real tool and a real rollout is left."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from sod.build.tools import make_tools
from sod.chat.render import Chat
from sod.engines.base import Sampling
from sod.engines.torch_engine import TorchEngine
from sod.recipe import Recipe
from sod.records import Fault, FaultKind, Message, Task, ToolCall, ToolResult
from sod.rollout.collect import Collector, RolloutSchedule
from sod.rollout.episode import AskTools, EpisodeLimits
from sod.rollout.executor import ToolExecutor
from sod.seeds import derive
from sod.tasks import chain
from sod.tools.base import Tool, ToolRequest
from sod.tools.python import PythonTool
from sod.tools.unreliable import UNAVAILABLE, UnreliableTool
from support import math_reward, tool_request

DOWN = Fault(FaultKind.SANDBOX, "worker lost")
LOST = Fault(FaultKind.SESSION, "state lost", retryable=False)


@dataclass
class Echo:
    """A tool that answers with the code it was given; every call faults `faults` times before, with `fault`."""

    faults: int = 0
    fault: Fault = DOWN
    asked: list[ToolRequest] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    closed: int = 0
    keeps_state: bool = True
    name: str = "python"
    schema: dict[str, Any] = field(default_factory=lambda: {"type": "function"})

    def run(self, requests: Sequence[ToolRequest]) -> list[ToolResult | Fault]:
        answers: list[ToolResult | Fault] = []
        for request in requests:
            self.asked.append(request)
            attempts = sum(earlier is request for earlier in self.asked)
            answers.append(self.fault if attempts <= self.faults else ToolResult(request.call.arguments["code"]))
        return answers

    def start(self, episodes: Sequence[tuple[str, Task]]) -> None:
        self.started += [episode for episode, _ in episodes]

    def probe(self) -> Fault | None:
        return DOWN

    def finish(self, episodes: Sequence[str]) -> None:
        self.finished += episodes

    def close(self) -> None:
        self.closed += 1


def ask(episode: str, code: str = "1") -> ToolRequest:
    return tool_request(episode, ToolCall("python", {"code": code}))


def hits(tool: UnreliableTool, episode: str, calls: int) -> list[bool]:
    """Which of an episode's calls are hit, one turn each."""
    return [tool.run([ask(episode, str(n))])[0] == UNAVAILABLE for n in range(calls)]


def test_a_share_of_the_calls_is_hit() -> None:
    """4,000 calls of 400 episodes: within four standard deviations of the rate, in every place of an episode."""
    for rate in (0.05, 0.3):
        tool = UnreliableTool(Echo(), rate, 7)
        rows = [hits(tool, f"chain-{n}#0@{n:016x}", 10) for n in range(400)]
        spread = (rate * (1 - rate)) ** 0.5
        assert abs(sum(map(sum, rows)) / 4000 - rate) < 4 * spread / 4000**0.5
        for place in zip(*rows, strict=True):
            assert abs(sum(place) / 400 - rate) < 4 * spread / 400**0.5


@pytest.mark.parametrize(("rate", "expected"), [(0.0, False), (1.0, True)])
def test_never_and_always(rate: float, expected: bool) -> None:
    echo = Echo()
    assert hits(UnreliableTool(echo, rate, 1), "e", 50) == [expected] * 50
    assert len(echo.asked) == (0 if expected else 50)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        UnreliableTool(Echo(), rate, 1)


def test_what_is_hit_depends_on_seed_episode_and_number_alone() -> None:
    """Not on other episodes, batches, threads or what the calls say; a second tool of the same seed agrees."""
    wanted = {name: hits(UnreliableTool(Echo(), 0.5, 3), name, 12) for name in "abcd"}
    assert len({tuple(row) for row in wanted.values()}) == 4
    assert hits(UnreliableTool(Echo(), 0.5, 4), "a", 12) != wanted["a"]

    together = UnreliableTool(Echo(), 0.5, 3)
    got: dict[str, list[bool]] = {name: [] for name in wanted}
    for size in (1, 3, 4, 4):  # so many calls of every episode in one batch, those of an episode not side by side
        batch = [ask(name, "other") for _ in range(size) for name in wanted]
        for request, answer in zip(batch, together.run(batch), strict=True):
            got[request.episode].append(answer == UNAVAILABLE)
    assert got == wanted

    shared = UnreliableTool(Echo(), 0.5, 3)
    with ThreadPoolExecutor(4) as pool:
        rows = pool.map(lambda name: hits(shared, name, 12), wanted)
    assert dict(zip(wanted, rows, strict=True)) == wanted


def test_calls_that_are_hit_are_not_run_and_the_others_keep_their_place() -> None:
    echo = Echo()
    batch = [ask("e", str(n)) for n in range(40)]
    answers = UnreliableTool(echo, 0.5, 3).run(batch)
    passed = [request for request, answer in zip(batch, answers, strict=True) if answer != UNAVAILABLE]
    assert echo.asked == passed
    assert 0 < len(passed) < 40
    assert (UNAVAILABLE.text, UNAVAILABLE.error) == ("Error: unavailable", "unavailable")
    for request, answer in zip(batch, answers, strict=True):
        assert answer in (UNAVAILABLE, ToolResult(request.call.arguments["code"]))


@pytest.mark.parametrize("faults", [1, 2])
@pytest.mark.parametrize("alike", [True, False])
def test_a_retried_call_keeps_its_verdict_and_shifts_no_other(faults: int, alike: bool) -> None:
    """Through the rollout's own retries: turns of three calls, every one faulting first, alike or not.

    The same verdicts as without faults: a call that was let through once is let through again, whatever later
    numbers would say, and a call that was hit does not reach the tool at all.
    """
    turns = [AskTools(tuple(ask("e", "x" if alike else f"{turn}.{n}") for n in range(3))) for turn in range(8)]
    plain: list[list[ToolResult | Fault]] = []
    untroubled = UnreliableTool(Echo(), 0.4, 11)
    for turn in turns:
        plain.append(untroubled.run(turn.requests))
    echo = Echo(faults)
    with ToolExecutor({"python": UnreliableTool(echo, 0.4, 11)}, retries=2, threads=1) as executor:
        for turn, wanted in zip(turns, plain, strict=True):
            executor.start([("e", turn)])
            assert executor.take_all() == [("e", wanted)]
    passed = sum(answer != UNAVAILABLE for row in plain for answer in row)
    assert 0 < passed < 24
    assert executor.retried == faults * passed
    assert len(echo.asked) == (1 + faults) * passed


@pytest.mark.parametrize("fault", [DOWN, LOST])
def test_faults_pass_through(fault: Fault) -> None:
    tool = UnreliableTool(Echo(9, fault), 0.5, 3)
    answers = tool.run([ask("e", str(n)) for n in range(30)])
    assert {answer if isinstance(answer, Fault) else answer.error for answer in answers} == {fault, "unavailable"}


def test_an_episode_that_is_over_is_forgotten() -> None:
    """Its counter starts anew, also after a fault that ended it; others go on. The wrapped tool hears of it."""
    wanted = hits(UnreliableTool(Echo(), 0.5, 3), "e", 10)
    echo = Echo()
    tool = UnreliableTool(echo, 0.5, 3)
    assert hits(tool, "e", 10) == wanted
    assert hits(tool, "other", 4) == hits(UnreliableTool(Echo(), 0.5, 3), "other", 4)
    tool.finish(["e", "never seen"])
    assert echo.finished == ["e", "never seen"]
    assert hits(tool, "e", 10) == wanted
    assert hits(tool, "other", 6) == hits(UnreliableTool(Echo(), 0.5, 3), "other", 10)[4:]

    broken = UnreliableTool(Echo(9), 0.5, 3)
    request = ask("e", "same")
    assert broken.run([request]) == [DOWN]
    broken.finish(["e"])
    assert broken.run([request]) == [DOWN]  # call 1 of a new episode, not the old one's again
    assert hits(broken, "e", 9) == wanted[1:]


def test_the_rest_is_the_wrapped_tools() -> None:
    echo = Echo()
    tool = UnreliableTool(echo, 1.0, 3)
    assert (tool.name, tool.schema, tool.keeps_state, tool.probe()) == (echo.name, echo.schema, True, DOWN)
    tool.start([("e", Task("t", (Message("user", "?"),), ""))])
    assert echo.started == ["e"]
    tool.close()
    assert echo.closed == 1


def test_calls_that_python_would_refuse_are_hit_too(python_tool: Tool) -> None:
    """The real tool: a call that is hit says `unavailable`, whatever is wrong with it; else what Python says."""
    calls = [ToolCall("python", {}), ToolCall("python", {"code": "1/0"}), ToolCall("python", {"code": "print(7)"})] * 8
    answers = UnreliableTool(python_tool, 0.5, 5).run([tool_request("e", call) for call in calls])
    errors = [answer.error if isinstance(answer, ToolResult) else answer for answer in answers]
    for kind, own in enumerate(("bad_arguments", "exception", None)):
        assert set(errors[kind::3]) == {own, "unavailable"}


@pytest.mark.slow
def test_a_real_rollout_repeats_and_reads_the_errors(acting_model: Any, chat: Chat, python_tool: Tool) -> None:
    """Same ledgers under both schedules; another step has other failures; the model reads them; no faults."""
    tasks = [chain.as_task(c, n) for n, c in enumerate(chain.splits({"t": 6}, 2, 3, seed=1)["t"])]

    def rows(step: int, schedule: RolloutSchedule) -> list[tuple[tuple[int, ...], list[str | None]]]:
        tool = UnreliableTool(python_tool, 0.3, 2)
        engine = TorchEngine(acting_model, chat.stop_ids, 8)
        rollout = Collector(
            engine, chat, {"python": tool}, EpisodeLimits(4, 60, 300), math_reward(), 0, schedule=schedule
        )
        got = rollout.collect(tasks, 3, Sampling(), "train", step)
        assert (got.faults, got.retries) == ([], 0)
        for t in got.trajectories:
            for turn, following in zip(t.turns, t.turns[1:], strict=False):
                read = chat.tokenizer.decode(t.token_ids[turn.stop : following.start])
                assert all(result.text in read for result in turn.results)
        return [(t.token_ids, [r.error for r in t.tool_results]) for t in got.trajectories]

    first = rows(1, RolloutSchedule())
    errors = [error for _, row in first for error in row]
    assert {None, "unavailable"} <= set(errors)
    assert rows(1, RolloutSchedule()) == first
    assert rows(1, RolloutSchedule(3, asynchronous=True)) == first
    assert [row for _, row in rows(2, RolloutSchedule())] != [row for _, row in first]


def test_the_recipe_decides() -> None:
    """`tools.python.failure_rate` 0 is the plain tool; above, the share is hit, by a seed of the recipe's."""

    def made(rate: float, seed: int, opened: ExitStack) -> Tool:
        python = {"failure_rate": rate, "preload": [], "workers": 1}
        recipe = Recipe.model_validate({"student": {"path": "s"}, "seed": seed, "tools": {"python": python}})
        return make_tools(recipe, opened, None)["python"]

    with ExitStack() as opened:
        assert type(made(0.0, 0, opened)) is PythonTool
        for seed in (0, 1):
            tool = made(0.5, seed, opened)
            assert tool.probe() is None
            answers = tool.run([ask("e", "print(3)") for _ in range(12)])
            wanted = hits(UnreliableTool(Echo(), 0.5, derive(seed, "unreliable")), "e", 12)
            assert [answer == UNAVAILABLE for answer in answers] == wanted
            assert {answer.text for answer in answers if isinstance(answer, ToolResult)} == {"3", UNAVAILABLE.text}

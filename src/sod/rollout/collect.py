"""Many episodes at once, in lock-step: all live episodes sample a turn, then all pending tools run.

The schedule depends on tokens alone, never on how long anything took, so a run can be repeated bit for
bit. Faults are retried; an episode whose fault persists is set apart from its group before rewards are compared.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from sod.engines.base import Engine, Sampling
from sod.records import Fault, FaultKind, Group, ToolResult, Trajectory
from sod.rollout.episode import Ask, AskTools, AskTurn, Limits, Play, Renderer, Reply, name, play
from sod.rollout.health import FaultWindow
from sod.seeds import derive
from sod.tasks.base import Task
from sod.tools.base import Tool, ToolRequest

Judge = Callable[[Sequence[tuple[Task, Trajectory]]], list[Trajectory]]
"""Fills in `answer`, `correct`, `reward` and `verdict` of finished trajectories, or `fault` where it cannot tell."""


@dataclass
class _Live:
    """An episode under way: its generator, and what it waits for."""

    group: int
    name: str
    play: Play
    ask: Ask


@dataclass(frozen=True)
class Collected:
    """The groups of one call, in task order; the seconds spent sampling, in tools and judging; tool calls retried."""

    groups: list[Group]
    seconds: dict[str, float]
    retries: int = 0

    @property
    def trajectories(self) -> list[Trajectory]:
        """The usable trajectories of every group."""
        return [t for group in self.groups for t in group.trajectories]

    @property
    def faults(self) -> list[Fault]:
        """Why episodes were set apart, one entry each."""
        return [t.fault for group in self.groups for t in group.faulted if t.fault is not None]


@final
class Collector:
    """Plays groups of episodes with one engine and one set of tools."""

    def __init__(
        self,
        engine: Engine,
        chat: Renderer,
        tools: Mapping[str, Tool],
        limits: Limits,
        judge: Judge,
        seed: int,
        fault_retries: int = 2,
        max_fault_rate: float = 0.1,
        fault_window: int = 64,
    ) -> None:
        self.engine = engine
        self._chat = chat
        self._tools = tools
        self._limits = limits
        self._judge = judge
        self._seed = seed
        self._fault_retries = fault_retries
        self._window = FaultWindow(max_fault_rate, fault_window)
        self._retried = 0

    def collect(self, tasks: Sequence[Task], samples: int, sampling: Sampling, purpose: str, step: int) -> Collected:
        """`samples` episodes of every task.

        Sampling noise is a function of (seed, purpose, step, task, sample, position); a task that is drawn
        twice in a step counts as two tasks. Raises SodError when too many of the latest episodes faulted.
        """
        seen: Counter[str] = Counter()
        live: list[_Live] = []
        done: list[list[Trajectory]] = [[] for _ in tasks]
        for number, task in enumerate(tasks):
            prompt_ids = self._chat.prompt_ids(task.prompt)
            for sample in range(samples):
                key = derive(self._seed, "noise", purpose, step, task.id, seen[task.id], sample)
                episode = play(task, sample, prompt_ids, self._chat, self._tools.keys(), self._limits, key)
                live.append(_Live(number, name(task, sample, key), episode, next(episode)))
            seen[task.id] += 1
        seconds = {"sample": 0.0, "tools": 0.0}
        self._retried = 0
        while live:
            for phase, answer in (("sample", self._sample), ("tools", self._run_tools)):
                began = time.perf_counter()
                replies = answer(live, sampling)
                still = _advance(live, replies, done)
                self._finish({one.name for one in live} - {one.name for one in still})
                live = still
                seconds[phase] += time.perf_counter() - began
        began = time.perf_counter()
        groups = self._judged(tasks, done)
        seconds["judge"] = time.perf_counter() - began
        collected = Collected(groups, seconds, self._retried)
        self._window.add(len(tasks) * samples, collected.faults)
        return collected

    def _finish(self, episodes: set[str]) -> None:
        for tool in self._tools.values():
            if episodes:
                tool.finish(sorted(episodes))

    def _sample(self, live: Sequence[_Live], sampling: Sampling) -> list[Reply | None]:
        asking = [(at, one.ask.request) for at, one in enumerate(live) if isinstance(one.ask, AskTurn)]
        replies: list[Reply | None] = [None] * len(live)
        sampled = self.engine.generate([request for _, request in asking], sampling)
        for (at, _), reply in zip(asking, sampled, strict=True):
            replies[at] = reply
        return replies

    def _run_tools(self, live: Sequence[_Live], sampling: Sampling) -> list[Reply | None]:
        wanted = [
            (at, request)
            for at, one in enumerate(live)
            if isinstance(one.ask, AskTools)
            for request in one.ask.requests
        ]
        outcomes = self._execute([request for _, request in wanted])
        replies: list[Reply | None] = [None] * len(live)
        for (at, _), outcome in zip(wanted, outcomes, strict=True):
            earlier = replies[at]
            if isinstance(earlier, Fault):
                continue
            if isinstance(outcome, Fault):
                replies[at] = outcome
            else:
                assert earlier is None or isinstance(earlier, list)
                replies[at] = [*(earlier or []), outcome]
        return replies

    def _execute(self, requests: Sequence[ToolRequest]) -> list[ToolResult | Fault]:
        """Run every request with its tool, and the faulted ones again up to `fault_retries` times."""
        outcomes: list[ToolResult | Fault] = [Fault(FaultKind.SANDBOX, "not run")] * len(requests)
        waiting = list(range(len(requests)))
        for attempt in range(1 + self._fault_retries):
            self._retried += len(waiting) if attempt else 0
            for tool_name, tool in self._tools.items():
                mine = [at for at in waiting if requests[at].call.name == tool_name]
                if mine:
                    for at, outcome in zip(mine, tool.run([requests[at] for at in mine]), strict=True):
                        outcomes[at] = outcome
            waiting = [at for at in waiting if isinstance(fault := outcomes[at], Fault) and fault.retryable]
            if not waiting:
                break
        return outcomes

    def _judged(self, tasks: Sequence[Task], done: Sequence[Sequence[Trajectory]]) -> list[Group]:
        """The groups, sample by sample in order; whose fault it was, tool's or verifier's, the episode stands apart."""
        ordered = [sorted(group, key=lambda t: t.sample) for group in done]
        whole = [(task, t) for task, group in zip(tasks, ordered, strict=True) for t in group if t.fault is None]
        verdicts = iter(self._judge(whole))
        judged = [[next(verdicts) if t.fault is None else t for t in group] for group in ordered]
        return [
            Group(
                task.id,
                tuple(t for t in group if t.fault is None),
                tuple(t for t in group if t.fault is not None),
            )
            for task, group in zip(tasks, judged, strict=True)
        ]


def _advance(live: Sequence[_Live], replies: Sequence[Reply | None], done: list[list[Trajectory]]) -> list[_Live]:
    """Hand every answered episode its reply; finished ones move to `done` of their group."""
    still: list[_Live] = []
    for one, reply in zip(live, replies, strict=True):
        if reply is None:
            still.append(one)
            continue
        try:
            one.ask = one.play.send(reply)
            still.append(one)
        except StopIteration as finished:
            done[one.group].append(finished.value)
    return still

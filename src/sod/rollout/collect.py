"""Many episodes at once: those that have a turn to sample share the engine, the tools of the others run meanwhile.

In rounds: every episode that was answered asks anew, the engine samples some tokens for all turns under way, then
what the tools did in that time is handed on. By default a round waits for all its tools, so the schedule depends on
tokens alone and a run can be repeated bit for bit; `asynchronous` goes on with what is there.
Faults are retried; an episode whose fault persists is set apart from its group before rewards are compared.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import final

from sod.engines.base import Engine, Sampled, Sampling
from sod.records import Episode, Fault, Group, Task, Trajectory
from sod.rollout.episode import Ask, AskTools, AskTurn, EpisodeLimits, Play, Renderer, Reply, name, play
from sod.rollout.executor import ToolExecutor
from sod.rollout.health import FaultWindow
from sod.rollout.prefix import Prefix, limits_after
from sod.seeds import derive
from sod.tools.base import Tool

RewardFunction = Callable[[Sequence[Episode]], list[Trajectory]]
"""The trajectories with `answer`, `correct`, `reward`, its parts and `verdict`, or `fault` where it cannot tell."""


CLOCK_THREADS = 16  # batches of calls that run at a time where nothing waits for all of them


@dataclass(frozen=True)
class RolloutSchedule:
    """How sampling and tools take turns.

    `decode_chunk` is how many tokens are sampled for a turn before finished turns and tools are looked at.
    `asynchronous` never waits for a tool while there is something to sample; no two runs are then quite the same.
    """

    decode_chunk: int = 16
    asynchronous: bool = False


@dataclass
class _Live:
    """An episode under way: its generator, and what it waits for."""

    group: int
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
        limits: EpisodeLimits,
        reward_function: RewardFunction,
        seed: int,
        fault_retries: int = 2,
        max_fault_rate: float = 0.1,
        fault_window: int = 64,
        schedule: RolloutSchedule = RolloutSchedule(),
    ) -> None:
        self.engine = engine
        self._chat = chat
        self._tools = tools
        self._limits = limits
        self._judge = reward_function
        self._seed = seed
        self._fault_retries = fault_retries
        self._window = FaultWindow(max_fault_rate, fault_window)
        self._schedule = schedule

    def collect(
        self,
        tasks: Sequence[Task],
        samples: int,
        sampling: Sampling,
        purpose: str,
        step: int,
        *,
        max_turns: int | None = None,
        prefixes: Sequence[Prefix] | None = None,
    ) -> Collected:
        """`samples` episodes of every task.

        Sampling noise is a function of (seed, purpose, step, task, sample, position); a task that is drawn
        twice in a step counts as two tasks.
        For depth curricula: `max_turns` caps the student's turns further than the limits do, and `prefixes`, one per
        task, are where the episodes begin; the limits then count the prefix's turns and tokens as spent.
        Raises SodError when too many of the latest episodes faulted. Raises ValueError, before anything is sampled,
        for a cap below 1 and for prefixes that do not fit the tasks, the limits or a tool that keeps state.
        """
        live = self._start(tasks, samples, purpose, step, self._beginnings(tasks, max_turns, prefixes))
        for tool in self._tools.values():
            tool.start([(episode, tasks[one.group]) for episode, one in live.items()])
        done: list[list[Trajectory]] = [[] for _ in tasks]
        clock = dict.fromkeys(("sample", "tools", "reward_function"), 0.0)
        asynchronous = self._schedule.asynchronous
        with ToolExecutor(self._tools, self._fault_retries, CLOCK_THREADS if asynchronous else 1) as executor:
            asking, sampling_now = list(live), 0
            while live:
                turns = [one.request for one in (live[episode].ask for episode in asking) if isinstance(one, AskTurn)]
                calls = [(episode, ask) for episode in asking if isinstance(ask := live[episode].ask, AskTools)]
                with _timed(clock, "sample"):
                    for batch in [[call] for call in calls] if asynchronous else [calls]:
                        executor.start(batch)
                    self.engine.submit(turns, sampling)
                    sampled = self.engine.advance(self._schedule.decode_chunk)
                    sampling_now += len(turns) - len(sampled)
                with _timed(clock, "tools"):
                    nothing_else = not sampled and not sampling_now
                    ready = executor.take_ready(block=nothing_else) if asynchronous else executor.take_all()
                asking = self._answer(live, [*sampled, *ready], done)
        with _timed(clock, "reward_function"):
            groups = self._judged(tasks, done)
        collected = Collected(groups, clock, executor.retried)
        self._window.add(len(tasks) * samples, collected.faults)
        return collected

    def _beginnings(
        self, tasks: Sequence[Task], max_turns: int | None, prefixes: Sequence[Prefix] | None
    ) -> list[tuple[Sequence[int], EpisodeLimits]]:
        """What the student finds of each task, its prompt or a prefix, and the limits from there on."""
        if max_turns is not None and max_turns < 1:
            raise ValueError(f"max_turns={max_turns}: the student needs a turn")
        if prefixes is not None and len(prefixes) != len(tasks):
            raise ValueError(f"{len(prefixes)} prefixes for {len(tasks)} tasks")
        stateful = [name for name, tool in self._tools.items() if tool.keeps_state]
        if stateful and any(prefix.turns for prefix in prefixes or ()):
            raise ValueError(f"tool {stateful[0]} keeps state, which the turns of a prefix do not bring back")
        beginnings: list[tuple[Sequence[int], EpisodeLimits]] = []
        for number, task in enumerate(tasks):
            context_ids: Sequence[int] = self._chat.prompt_ids(task.prompt)
            limits = self._limits
            if prefixes is not None:
                try:
                    limits = limits_after(prefixes[number], context_ids, limits)
                except ValueError as error:
                    raise ValueError(f"task {task.id}: {error}") from None
                context_ids = prefixes[number].token_ids
            if max_turns is not None:
                limits = replace(limits, max_turns=min(max_turns, limits.max_turns))
            beginnings.append((context_ids, limits))
        return beginnings

    def _start(
        self,
        tasks: Sequence[Task],
        samples: int,
        purpose: str,
        step: int,
        beginnings: Sequence[tuple[Sequence[int], EpisodeLimits]],
    ) -> dict[str, _Live]:
        """Every episode by its name, at its first turn."""
        seen: Counter[str] = Counter()
        live: dict[str, _Live] = {}
        for number, (task, (context_ids, limits)) in enumerate(zip(tasks, beginnings, strict=True)):
            for sample in range(samples):
                key = derive(self._seed, "noise", purpose, step, task.id, seen[task.id], sample)
                episode = play(task, sample, context_ids, self._chat, self._tools.keys(), limits, key)
                live[name(task, sample, key)] = _Live(number, episode, next(episode))
            seen[task.id] += 1
        return live

    def _answer(
        self,
        live: dict[str, _Live],
        replies: Sequence[tuple[str, Sampled] | tuple[str, Reply]],
        done: Sequence[list[Trajectory]],
    ) -> list[str]:
        """Hand on the replies. Finished episodes move from `live` to `done`; those that ask anew are returned."""
        asking, over = [], []
        for episode, reply in replies:
            one = live[episode]
            try:
                one.ask = one.play.send(reply)
                asking.append(episode)
            except StopIteration as finished:
                done[one.group].append(finished.value)
                over.append(episode)
                del live[episode]
        if over:
            self.engine.forget(over)
            for tool in self._tools.values():
                tool.finish(over)
        return asking

    def _judged(self, tasks: Sequence[Task], done: Sequence[Sequence[Trajectory]]) -> list[Group]:
        """The groups, sample by sample in order; whose fault it was, tool's or verifier's, the episode stands apart."""
        ordered = [sorted(group, key=lambda t: t.sample) for group in done]
        whole = [Episode(task, t) for task, group in zip(tasks, ordered, strict=True) for t in group if t.fault is None]
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


@contextmanager
def _timed(clock: dict[str, float], phase: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    clock[phase] += time.perf_counter() - began

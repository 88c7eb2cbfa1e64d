"""Many episodes at once: those that have a turn to sample share the engine, the tools of the others run meanwhile.

Every episode that was answered asks anew, the engine samples a decode chunk for all turns under way, then what was
sampled and what the tools did is handed on (`sod.rollout.schedulers`). Faults are retried; an episode whose fault
persists is set apart from its group before rewards are compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, final

from sod.clock import Clock, nothing_to_wait_for
from sod.engines.base import Engine, Sampling
from sod.environments.base import ENVIRONMENT
from sod.environments.worlds import Worlds
from sod.outcomes import filled
from sod.records import Episode, Fault, Group, Task, Trajectory
from sod.rollout.asks import Ask, Play, Reply
from sod.rollout.episode import episode_name, play
from sod.rollout.executor import Runner, ToolExecutor
from sod.rollout.health import FaultWindow
from sod.rollout.limits import EpisodeLimits
from sod.rollout.opening import WorldStart
from sod.rollout.prefix import Prefix, limits_after
from sod.rollout.renderer import Renderer
from sod.rollout.schedulers import AsynchronousScheduler, LockstepScheduler, Scheduler, TurnSampler
from sod.seeds import derive
from sod.tools.base import Tool

ASYNCHRONOUS_THREADS = 16  # batches of calls of one tool that run at a time where nothing waits for all of them


class RewardFunction(Protocol):
    """What an episode earned; `sod.rollout.reward.VerifierReward` is the recipes'."""

    def __call__(self, episodes: Sequence[Episode]) -> list[Trajectory]:
        """The trajectories with `answer`, `correct`, `reward`, its parts and `verdict`, or with `fault`."""
        ...

    def votes(self, groups: Sequence[Sequence[Episode]]) -> list[list[str | None]]:
        """The answers of rewarded episodes for majority votes: equal ones of a group in one spelling."""
        ...


@final
@dataclass(frozen=True)
class RolloutSchedule:
    """How sampling and tools take turns.

    `decode_chunk` is how many tokens are sampled for a turn before finished turns and tools are looked at.
    `asynchronous` never waits for a tool while there is something to sample; no two runs are then quite the same.
    """

    decode_chunk: int = 16
    asynchronous: bool = False

    @property
    def tool_threads(self) -> int:
        """How many batches of calls a tool runs at a time: in lockstep there is one at a time."""
        return ASYNCHRONOUS_THREADS if self.asynchronous else 1

    def scheduler(self, sampler: TurnSampler, executor: ToolExecutor, clock: Clock) -> Scheduler:
        """The scheduler of this schedule for the episodes of one call."""
        if self.asynchronous:
            return AsynchronousScheduler(sampler, executor, clock)
        return LockstepScheduler(sampler, executor, clock)


@final
@dataclass(frozen=True)
class _Live:
    """An episode under way: the number of its task, and its generator."""

    group: int
    play: Play


@final
@dataclass(frozen=True)
class World:
    """The environments that episodes are played in, and the longest prompt (tokens) that may come of them."""

    environments: Worlds
    max_prompt_tokens: int


@final
@dataclass(frozen=True)
class _Beginning:
    """Where an episode of a task begins: what stands before its first turn, and the limits from there on.

    In an environment nothing is known of that before it is reset, and `prefix` is what has been played.
    """

    limits: EpisodeLimits
    context_ids: Sequence[int] = ()
    prefix: Prefix | None = None


@final
@dataclass(frozen=True)
class Collected:
    """The groups of one call, in task order, what they took, and how many turns and tool calls were tried again.

    `seconds` has the phases `sample`, `tools` (waited for) and `reward`.
    """

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
        faults = []
        for group in self.groups:
            faults += [t.fault for t in group.faulted if t.fault is not None]
        return faults


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
        settle: Callable[[], None] = nothing_to_wait_for,
        world: World | None = None,
    ) -> None:
        """`settle` waits for the engine's device, so that what is timed as sampling is all of it.

        With a `world` episodes are played in its environments.
        """
        self.engine = engine
        self._chat = chat
        self.tools = tools
        self._limits = limits
        self._reward_function = reward_function
        self._seed = seed
        self._fault_retries = fault_retries
        self._window = FaultWindow(max_fault_rate, fault_window)
        self._schedule = schedule
        self._settle = settle
        self._world = world

    def votes(self, groups: Sequence[Sequence[Episode]]) -> list[list[str | None]]:
        """The reward function's votes for majorities. Costs comparisons: for evaluations."""
        return self._reward_function.votes(groups)

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
        first_sample: int = 0,
    ) -> Collected:
        """`samples` episodes of every task, numbered from `first_sample`.

        Sampling noise is a function of (seed, purpose, step, task, sample, position); a task that is drawn
        twice in a step counts as two tasks.
        For depth curricula: `max_turns` caps the student's turns further than the limits do, and `prefixes`, one per
        task, are where the episodes begin; the limits then count the prefix's turns and tokens as spent.
        Raises SodError when too many of the latest episodes faulted. Raises ValueError, before anything is sampled,
        for a cap below 1 and for prefixes that do not fit the tasks, the limits or a tool that keeps state.
        """
        numbers = range(first_sample, first_sample + samples)
        live = self._start(tasks, numbers, purpose, step, self._beginnings(tasks, max_turns, prefixes))
        for tool in self.tools.values():
            tool.start([(episode, tasks[one.group]) for episode, one in live.items()])
        done: list[list[Trajectory]] = [[] for _ in tasks]
        clock = Clock(dict.fromkeys(("sample", "tools", "reward"), 0.0), self._settle)
        sampler = TurnSampler(self.engine, sampling, self._schedule.decode_chunk, self._fault_retries)
        runners: dict[str, Runner] = dict(self.tools)
        if self._world is not None:
            runners[ENVIRONMENT] = self._world.environments
        with ToolExecutor(runners, self._fault_retries, self._schedule.tool_threads) as executor:
            scheduler = self._schedule.scheduler(sampler, executor, clock)
            asks = [(episode, next(one.play)) for episode, one in live.items()]
            while live:
                asks = self._send(live, scheduler.next_replies(asks), done)
        with clock.timed("reward"):
            groups = self._rewarded(tasks, done)
        collected = Collected(groups, clock.seconds, executor.retried + sampler.retried)
        self._window.add(len(tasks) * samples, collected.faults)
        return collected

    def _beginnings(
        self, tasks: Sequence[Task], max_turns: int | None, prefixes: Sequence[Prefix] | None
    ) -> list[_Beginning]:
        """What the student finds of each task, and the limits from there on."""
        if max_turns is not None and max_turns < 1:
            raise ValueError(f"max_turns={max_turns}: the student needs a turn")
        if prefixes is not None and len(prefixes) != len(tasks):
            raise ValueError(f"{len(prefixes)} prefixes for {len(tasks)} tasks")
        stateful = [name for name, tool in self.tools.items() if tool.keeps_state]
        if stateful and any(prefix.turns for prefix in prefixes or ()):
            raise ValueError(f"tool {stateful[0]} keeps state, which the turns of a prefix do not bring back")
        limits = self._limits
        if max_turns is not None:
            limits = replace(limits, max_turns=min(max_turns, limits.max_turns))
        found = [None] * len(tasks) if prefixes is None else list(prefixes)
        if self._world is not None:
            return [_Beginning(limits, prefix=prefix) for prefix in found]
        return [self._after(task, prefix, limits) for task, prefix in zip(tasks, found, strict=True)]

    def _after(self, task: Task, prefix: Prefix | None, limits: EpisodeLimits) -> _Beginning:
        """The prompt of a task or a prefix of it, and what is left of the limits."""
        prompt_ids = self._chat.prompt_ids(task.prompt)
        if prefix is None:
            return _Beginning(limits, prompt_ids)
        try:
            left = limits_after(prefix, prompt_ids, self._limits)
        except ValueError as error:
            raise ValueError(f"task {task.id}: {error}") from None
        return _Beginning(replace(left, max_turns=min(left.max_turns, limits.max_turns)), prefix.token_ids)

    def _start(
        self, tasks: Sequence[Task], samples: Sequence[int], purpose: str, step: int, beginnings: Sequence[_Beginning]
    ) -> dict[str, _Live]:
        """Every episode by its name, not yet begun."""
        seen: Counter[str] = Counter()
        live: dict[str, _Live] = {}
        for number, (task, begins) in enumerate(zip(tasks, beginnings, strict=True)):
            for sample in samples:
                which = (purpose, step, task.id, seen[task.id], sample)
                key = derive(self._seed, "noise", *which)
                world = self._world_start(derive(self._seed, "environment", *which), begins.prefix)
                ids, limits = begins.context_ids, begins.limits
                episode = play(task, sample, ids, self._chat, self.tools.keys(), limits, key, world)
                live[episode_name(task, sample, key)] = _Live(number, episode)
            seen[task.id] += 1
        return live

    def _world_start(self, seed: int, prefix: Prefix | None) -> WorldStart | None:
        if self._world is None:
            return None
        own = tuple(tool.schema for tool in self.tools.values())
        return WorldStart(seed, self._world.max_prompt_tokens, own, prefix)

    def _send(
        self, live: dict[str, _Live], replies: Sequence[tuple[str, Reply]], done: Sequence[list[Trajectory]]
    ) -> list[tuple[str, Ask]]:
        """Give the episodes their replies; what they ask for next. Finished ones move from `live` to `done`."""
        asks: list[tuple[str, Ask]] = []
        over: list[str] = []
        for episode, reply in replies:
            one = live[episode]
            try:
                asks.append((episode, one.play.send(reply)))
            except StopIteration as finished:
                done[one.group].append(finished.value)
                over.append(episode)
                del live[episode]
        if over:
            self.engine.forget(over)
            for tool in self.tools.values():
                tool.finish(over)
            if self._world is not None:
                self._world.environments.finish(over)
        return asks

    def _rewarded(self, tasks: Sequence[Task], done: Sequence[Sequence[Trajectory]]) -> list[Group]:
        """The groups, sample by sample in order, with rewards. A fault of whatever part sets its episode apart."""
        ordered = [sorted(group, key=lambda trajectory: trajectory.sample) for group in done]
        episodes = [Episode(task, t) for task, group in zip(tasks, ordered, strict=True) for t in group]
        # An episode that faulted stays as it is: there is nothing to reward.
        faulted = [None if episode.trajectory.fault is None else episode.trajectory for episode in episodes]
        rewarded = iter(filled(faulted, episodes, self._reward_function))
        groups = []
        for task, group in zip(tasks, ordered, strict=True):
            mine = [next(rewarded) for _ in group]
            usable = tuple(trajectory for trajectory in mine if trajectory.fault is None)
            apart = tuple(trajectory for trajectory in mine if trajectory.fault is not None)
            groups.append(Group(task.id, usable, apart))
        return groups

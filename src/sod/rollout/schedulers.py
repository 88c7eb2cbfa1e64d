"""How sampling and tools take turns: two schedulers, each with one method.

A scheduler is handed what some episodes ask for, samples one decode chunk for all turns under way, and returns the
replies it has, to whichever episodes. Which those are is the difference between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

from sod.clock import Clock
from sod.engines.base import Engine, Sampled, SampleRequest, Sampling
from sod.records import Fault, may_retry
from sod.rollout.asks import Ask, AskTools, AskTurn, Reply
from sod.rollout.executor import ToolExecutor


class Scheduler(Protocol):
    """Answers the asks of many episodes."""

    def next_replies(self, asks: Sequence[tuple[str, Ask]]) -> list[tuple[str, Reply]]:
        """Take on what these episodes ask for; some replies, each with its episode's name.

        No episode asks twice before it was answered. May return nothing while turns are under way.
        """
        ...


@final
@dataclass(frozen=True)
class _TurnUnderWay:
    """A turn in the engine, and how often the engine has faulted on it before."""

    request: SampleRequest
    faults: int = 0


@final
class TurnSampler:
    """Turns in an engine, `decode_chunk` tokens at a time; one that faults is submitted again, up to `retries` times.

    `retried` counts the turns that were submitted again.
    """

    def __init__(self, engine: Engine, sampling: Sampling, decode_chunk: int, retries: int) -> None:
        self._engine = engine
        self._sampling = sampling
        self._decode_chunk = decode_chunk
        self._retries = retries
        self._under_way: dict[str, _TurnUnderWay] = {}
        self._again: list[_TurnUnderWay] = []
        self.retried = 0

    @property
    def idle(self) -> bool:
        """Whether no turn is under way, and none waits to be submitted again."""
        return not self._under_way and not self._again

    def advance(self, requests: Sequence[SampleRequest]) -> list[tuple[str, Sampled | Fault]]:
        """Submit these turns and sample a chunk; the turns that ended or faulted for good, by session."""
        submitted = [*self._again, *(_TurnUnderWay(request) for request in requests)]
        self._again = []
        self._engine.submit([turn.request for turn in submitted], self._sampling)
        self._under_way |= {turn.request.session: turn for turn in submitted}
        ended: list[tuple[str, Sampled | Fault]] = []
        for session, outcome in self._engine.advance(self._decode_chunk):
            turn = self._under_way.pop(session)
            if may_retry(outcome) and turn.faults < self._retries:
                self._again.append(_TurnUnderWay(turn.request, turn.faults + 1))
                self.retried += 1
            else:
                ended.append((session, outcome))
        return ended


@final
@dataclass(frozen=True)
class LockstepScheduler:
    """Waits for every tool call before the next chunk: what is sampled when depends on tokens alone.

    So a run can be repeated bit for bit; episodes without a call wait for the slowest call of the others.
    """

    sampler: TurnSampler
    executor: ToolExecutor
    clock: Clock

    def next_replies(self, asks: Sequence[tuple[str, Ask]]) -> list[tuple[str, Reply]]:
        """The turns that ended in this chunk, then the results of all calls; see `Scheduler.next_replies`."""
        turns, calls = _sorted_out(asks)
        with self.clock.timed("sample"):
            self.executor.start(calls)  # one batch: every tool gets its calls together
            ended = self.sampler.advance(turns)
        with self.clock.timed("tools"):
            return [*ended, *self.executor.take_all()]


@final
@dataclass(frozen=True)
class AsynchronousScheduler:
    """Goes on with whatever is ready first, and waits for a tool only where there is nothing to sample.

    No two runs have quite the same schedule, so their log-probabilities may differ in rounding.
    """

    sampler: TurnSampler
    executor: ToolExecutor
    clock: Clock

    def next_replies(self, asks: Sequence[tuple[str, Ask]]) -> list[tuple[str, Reply]]:
        """The turns that ended in this chunk, then the calls that are through; see `Scheduler.next_replies`."""
        turns, calls = _sorted_out(asks)
        with self.clock.timed("sample"):
            for call in calls:
                self.executor.start([call])  # a batch of its own: it is through when it is, whatever the others do
            ended = self.sampler.advance(turns)
        with self.clock.timed("tools"):
            nothing_else = not ended and self.sampler.idle
            return [*ended, *self.executor.take_ready(block=nothing_else)]


def _sorted_out(asks: Sequence[tuple[str, Ask]]) -> tuple[list[SampleRequest], list[tuple[str, AskTools]]]:
    """The turns to sample, and the calls to run with the names of their episodes."""
    turns = [ask.request for _, ask in asks if isinstance(ask, AskTurn)]
    calls = [(episode, ask) for episode, ask in asks if isinstance(ask, AskTools)]
    return turns, calls

"""Engines that lose turns, under both schedules: a real tiny student, real Python, and faults in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from sod.chat.render import Chat
from sod.engines.base import Sampled, SampleRequest, Sampling
from sod.engines.torch_engine import TorchEngine
from sod.records import Fault, FaultKind, SodError, StopReason, Task
from sod.rollout.collect import Collected, Collector, RolloutSchedule
from sod.rollout.episode import EpisodeLimits
from sod.rollout.schedulers import TurnSampler
from sod.tasks import chain
from sod.tools.base import Tool
from support import math_reward

LIMITS = EpisodeLimits(max_turns=4, max_turn_tokens=60, max_response_tokens=300)
LOST = Fault(FaultKind.SERVER, "SECRET engine restarted")
GONE = Fault(FaultKind.SERVER, "SECRET weights gone", retryable=False)
SCHEDULES = [RolloutSchedule(), RolloutSchedule(3, asynchronous=True)]


@dataclass
class Losing:
    """The real engine, which samples turns to their end, and then `losses(session, turn)` times they are lost.

    Turns count from 1. What was submitted and forgotten is noted.
    """

    engine: TorchEngine
    losses: Callable[[str, int], int]
    fault: Fault = LOST
    submitted: list[SampleRequest] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    contexts: dict[str, list[int]] = field(default_factory=dict)
    lost: Counter[tuple[str, int]] = field(default_factory=Counter)

    def submit(self, requests: Sequence[SampleRequest], sampling: Sampling) -> None:
        for request in requests:
            lengths = self.contexts.setdefault(request.session, [])
            if len(request.token_ids) not in lengths:
                lengths.append(len(request.token_ids))
        self.submitted += requests
        self.engine.submit(requests, sampling)

    def advance(self, tokens: int) -> list[tuple[str, Sampled | Fault]]:
        return [(session, self._outcome(session, sampled)) for session, sampled in self.engine.advance(tokens)]

    def _outcome(self, session: str, sampled: Sampled) -> Sampled | Fault:
        turn = session, len(self.contexts[session])
        if self.lost[turn] < self.losses(*turn):
            self.lost[turn] += 1
            return self.fault
        return sampled

    def forget(self, sessions: Iterable[str]) -> None:
        self.forgotten += sessions
        self.engine.forget(self.forgotten)


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return [chain.as_task(c, n) for n, c in enumerate(chain.splits({"t": 4}, 2, 3, seed=1)["t"])]


Roll = Callable[..., tuple[Collected, Losing]]


@pytest.fixture
def roll(acting_model: Any, chat: Chat, python_tool: Tool, tasks: list[Task]) -> Roll:
    """`roll(losses, ...)`: three episodes of each task, and the engine that lost turns of them."""

    def make(
        losses: Callable[[str, int], int],
        fault: Fault = LOST,
        retries: int = 2,
        schedule: RolloutSchedule = SCHEDULES[0],
        max_fault_rate: float = 1.0,
    ) -> tuple[Collected, Losing]:
        engine: Any = Losing(TorchEngine(acting_model, chat.stop_ids, 8), losses, fault)
        rollout = Collector(
            engine, chat, {"python": python_tool}, LIMITS, math_reward(), 0, retries, max_fault_rate, 64, schedule
        )
        return rollout.collect(tasks, 3, Sampling(), "train", 1), engine

    return make


def some(session: str, turn: int) -> int:
    """Two of the four tasks lose turns: one its second, once, the other its first, twice."""
    return int(session.startswith("chain-1#") and turn == 2) + 2 * (session.startswith("chain-2#") and turn == 1)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_lost_turn_is_sampled_again_and_leaves_no_trace(roll: Roll, schedule: RolloutSchedule) -> None:
    """The same tokens, rewards and groups as with an engine that loses nothing; each turn once more is a retry."""
    untroubled, _ = roll(lambda session, turn: 0, schedule=schedule)
    got, engine = roll(some, schedule=schedule)
    assert got.faults == []
    assert [t.token_ids for t in got.trajectories] == [t.token_ids for t in untroubled.trajectories]
    assert [t.reward for t in got.trajectories] == [t.reward for t in untroubled.trajectories]
    assert untroubled.retries == 0
    assert got.retries == sum(engine.lost.values()) == 3 + 6
    assert sorted(engine.forgotten) == sorted(engine.contexts)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("fault", "retries", "attempts"), [(LOST, 2, 3), (LOST, 0, 1), (GONE, 2, 1)])
def test_an_episode_whose_turn_is_lost_for_good_is_set_apart(
    roll: Roll, chat: Chat, schedule: RolloutSchedule, fault: Fault, retries: int, attempts: int
) -> None:
    """After `1 + retries` attempts, or one where no other can help: not rewarded, no word of it in any ledger."""

    def losses(session: str, turn: int) -> int:
        return 99 * (session.startswith("chain-1#") and turn == 2)

    untroubled, _ = roll(lambda session, turn: 0, schedule=schedule)
    got, engine = roll(losses, fault, retries, schedule)
    assert set(engine.lost.values()) == {attempts}
    assert got.retries == 3 * (attempts - 1)
    assert got.faults == [fault] * 3
    assert [len(group.trajectories) for group in got.groups] == [3, 0, 3, 3]
    others = [t.token_ids for t in untroubled.trajectories if t.task_id != "chain-1"]
    assert [t.token_ids for t in got.trajectories] == others
    for faulted, whole in zip(got.groups[1].faulted, untroubled.groups[1].trajectories, strict=True):
        assert (faulted.stop, faulted.fault, faulted.reward) == (StopReason.FAULT, fault, 0.0)
        assert len(faulted.turns) == 1  # the second turn was never there
        assert faulted.turns[0].results
        assert faulted.token_ids == whole.token_ids[: len(faulted.token_ids)]
        assert "SECRET" not in chat.tokenizer.decode(faulted.token_ids)
    assert sorted(engine.forgotten) == sorted(engine.contexts)


def test_what_is_left_before_a_lost_turn(roll: Roll) -> None:
    """Whole turns stay usable, without the tool output that only the lost one would have read; or nothing at all."""
    whole, _ = roll(lambda session, turn: 0)
    for lost_turn in (1, 2):
        got, _ = roll(lambda session, turn, lost=lost_turn: 99 * (turn == lost), retries=0)
        assert got.trajectories == []
        for group, unbroken in zip(got.groups, whole.groups, strict=True):
            for faulted, t in zip(group.faulted, unbroken.trajectories, strict=True):
                left = faulted.before_fault()
                assert len(left.turns) == lost_turn - 1
                end = t.turns[0].stop if lost_turn == 2 else t.prompt_tokens
                assert left.token_ids == t.token_ids[:end]
                assert left.turn_ids == t.turn_ids[:end]


def test_too_many_lost_turns_stop_the_run(roll: Roll) -> None:
    with pytest.raises(SodError, match=r"12 of the last 12 episodes faulted.*server: SECRET engine restarted"):
        roll(lambda session, turn: 99, max_fault_rate=0.5)


def test_a_lost_turn_is_under_way_until_it_is_submitted_again(acting_model: Any, chat: Chat) -> None:
    """So that an asynchronous rollout does not wait for tools instead; its new attempt comes with the next chunk."""
    engine: Any = Losing(TorchEngine(acting_model, chat.stop_ids), lambda session, turn: 1)
    sampler = TurnSampler(engine, Sampling(), decode_chunk=99, retries=1)
    assert sampler.idle
    prompt = chat.tokenizer.encode("7+8", add_special_tokens=False)
    assert sampler.advance([SampleRequest("a", prompt, 5, 1)]) == []
    assert (sampler.idle, sampler.retried, len(engine.submitted)) == (False, 1, 1)
    ((session, outcome),) = sampler.advance([])
    assert session == "a"
    assert isinstance(outcome, Sampled)
    assert (sampler.idle, sampler.retried) == (True, 1)
    assert engine.submitted[0] == engine.submitted[1]

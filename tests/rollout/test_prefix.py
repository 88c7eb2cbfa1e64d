"""Episodes that begin after somebody else's turns: a real tiny student, real Python, and its own ledgers cut."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from sod.chat.render import Chat
from sod.engines.base import Sampling
from sod.engines.torch_engine import TorchEngine
from sod.models.meter import Meter
from sod.records import Group, StopReason, Task, Trajectory
from sod.rollout.collect import Collector
from sod.rollout.episode import EpisodeLimits
from sod.rollout.prefix import Prefix, limits_after, prefix_of
from sod.tasks import chain
from sod.tools.base import Tool
from sod.tools.python import PythonTool
from sod.tools.sandbox.local import LocalSandbox
from support import math_reward

LIMITS = EpisodeLimits(max_turns=4, max_turn_tokens=60, max_response_tokens=300)
Roll = Callable[..., Collector]


@pytest.fixture
def roll(acting_model: Any, chat: Chat, python_tool: Tool) -> Roll:
    """`roll(limits, meter)`: a collector of the tiny student with the real Python tool."""

    def make(limits: EpisodeLimits = LIMITS, meter: Meter | None = None) -> Collector:
        engine = TorchEngine(acting_model, chat.stop_ids, 8, meter=meter)
        return Collector(engine, chat, {python_tool.name: python_tool}, limits, math_reward(), 0)

    return make


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return [chain.as_task(c, n) for n, c in enumerate(chain.splits({"t": 12}, 2, 3, seed=1)["t"])]


@pytest.fixture
def played(roll: Roll, tasks: list[Task]) -> list[Trajectory]:
    """One trajectory per task, all of several turns."""
    got = roll().collect(tasks, 1, Sampling(), "train", 1).trajectories
    assert [t.task_id for t in got] == [task.id for task in tasks]
    assert {len(t.turns) for t in got} == {3, 4}
    return got


def timeless(groups: list[Group]) -> list[Trajectory]:
    """The trajectories without the wall-clock seconds of their tool calls."""

    def still(t: Trajectory) -> Trajectory:
        turns = [replace(k, results=tuple(replace(r, seconds=0.0) for r in k.results)) for k in t.turns]
        return replace(t, turns=tuple(turns))

    return [still(t) for group in groups for t in group.trajectories]


def test_a_prefix_is_the_ledger_up_to_the_next_turn(played: list[Trajectory], chat: Chat) -> None:
    """Whole turns and their tool results, no token of the turn after them; never the last turn."""
    for t in played:
        for turns in range(6):
            prefix = prefix_of(t, turns)
            end = len(prefix.token_ids)
            assert prefix.turns == min(turns, len(t.turns) - 1)
            assert prefix.token_ids == t.token_ids[:end]
            assert t.turn_ids[end] == prefix.turns + 1
            assert set(t.turn_ids[:end]) == set(range(prefix.turns + 1))
            if prefix.turns:
                read = chat.tokenizer.decode(prefix.token_ids[t.turns[prefix.turns - 1].stop :])
                assert all(result.text in read for result in t.turns[prefix.turns - 1].results)
        prompt = Prefix(t.token_ids[: t.prompt_tokens], 0)
        assert prefix_of(t, 0) == prefix_of(replace(t, turns=t.turns[:1]), 3) == prompt


def test_a_prefix_of_what_a_fault_left(played: list[Trajectory]) -> None:
    """A trajectory without a turn gives its prompt."""
    whole = played[0]
    open_calls = replace(whole.turns[0], results=())
    faulted = replace(whole, stop=StopReason.FAULT, turns=(open_calls,)).before_fault()
    assert faulted.turns == ()
    assert prefix_of(faulted, 2) == Prefix(whole.token_ids[: whole.prompt_tokens], 0)


def test_a_negative_number_of_turns_is_refused(played: list[Trajectory]) -> None:
    with pytest.raises(ValueError, match="-1 turns"):
        prefix_of(played[0], -1)


@pytest.mark.parametrize("turns", [1, 2])
def test_who_goes_on_from_its_own_prefix_plays_the_same(
    roll: Roll, tasks: list[Task], played: list[Trajectory], turns: int
) -> None:
    """Noise is a function of episode and position, so a student that takes over its own turns repeats the rest.

    The prefix is context: turn id 0, no log-probability, turns counted from 1 after it.
    """
    prefixes = [prefix_of(t, turns) for t in played]
    again = roll().collect(tasks, 1, Sampling(), "train", 1, prefixes=prefixes).trajectories
    assert any(prefix.turns == turns for prefix in prefixes)
    for before, after, prefix in zip(played, again, prefixes, strict=True):
        start = len(prefix.token_ids)
        assert after.token_ids == before.token_ids
        assert (after.stop, after.answer, after.reward) == (before.stop, before.answer, before.reward)
        assert after.prompt_tokens == start
        assert after.turn_ids == tuple(max(0, k - prefix.turns) for k in before.turn_ids)
        assert set(after.sampled_logps[:start]) == {0.0}
        assert after.sampled_logps[start:] == pytest.approx(before.sampled_logps[start:], abs=1e-4)
        rest = before.turns[prefix.turns :]
        assert [k.index for k in after.turns] == list(range(1, len(rest) + 1))
        assert [(k.start, k.stop, k.text, k.calls) for k in after.turns] == [
            (k.start, k.stop, k.text, k.calls) for k in rest
        ]
        assert [r.text for r in after.tool_results] == [r.text for k in rest for r in k.results]


def test_a_prefix_without_turns_changes_nothing(roll: Roll, tasks: list[Task], played: list[Trajectory]) -> None:
    """Bit for bit, log-probabilities included: with prompts as prefixes, a cap at the limit, and with neither."""
    plain = timeless(roll().collect(tasks, 2, Sampling(), "train", 1).groups)
    prefixes = [prefix_of(t, 0) for t in played]
    for more in ({"prefixes": prefixes}, {"max_turns": 4}, {"prefixes": prefixes, "max_turns": 4}):
        assert timeless(roll().collect(tasks, 2, Sampling(), "train", 1, **more).groups) == plain


def test_samples_of_a_task_share_their_prefix(
    roll: Roll, tasks: list[Task], played: list[Trajectory], full_logps: Callable[..., list[float]], acting_model: Any
) -> None:
    """It is prefilled once for all of them, and what they sample after it has the right log-probabilities."""
    at = next(n for n, t in enumerate(played) if len(t.turns) >= 3)
    prefix = prefix_of(played[at], 2)
    meter = Meter(on=True)
    rollout = roll(meter=meter)
    meter.phases.clear()  # what the engine's own proof ran
    got = rollout.collect([tasks[at]], 6, Sampling(), "train", 7, max_turns=1, prefixes=[prefix]).trajectories
    assert len({t.token_ids for t in got}) > 1
    prefilled = sum(phase.tokens for name, phase in meter.phases.items() if name == "prefill")
    assert len(prefix.token_ids) <= prefilled <= len(prefix.token_ids) + 6
    for t in got:
        assert t.prompt_tokens == len(prefix.token_ids)
        assert (len(t.turns), {*t.turn_ids}) == (1, {0, 1})
        right = full_logps(acting_model, t.token_ids)
        assert t.sampled_logps[t.prompt_tokens :] == pytest.approx(right[t.prompt_tokens :], abs=1e-4)


@pytest.mark.parametrize(("max_turns", "max_response_tokens", "cap"), [(3, 300, None), (4, 95, None), (4, 300, 1)])
def test_limits_count_the_prefix(
    roll: Roll, tasks: list[Task], played: list[Trajectory], max_turns: int, max_response_tokens: int, cap: int | None
) -> None:
    """Turns of both stay within `max_turns`, tokens of both within `max_response_tokens`; the cap is the student's."""
    prompts = [t.prompt_tokens for t in played]
    prefixes = [prefix_of(t, 1) for t in played]
    limits = EpisodeLimits(max_turns, 60, max_response_tokens)
    got = roll(limits).collect(tasks, 4, Sampling(), "train", 2, max_turns=cap, prefixes=prefixes).groups
    ends = set()
    for prompt, prefix, group in zip(prompts, prefixes, got, strict=True):
        for t in group.trajectories:
            allowed = max_turns - prefix.turns if cap is None else cap
            assert len(t.turns) <= allowed
            assert len(t.token_ids) <= prompt + max_response_tokens
            if t.stop is StopReason.MAX_TURNS:
                assert len(t.turns) == allowed
                assert t.turns[-1].calls
                assert not t.turns[-1].results
            ends.add(t.stop)
    assert (StopReason.LENGTH if max_response_tokens == 95 else StopReason.MAX_TURNS) in ends


def test_what_is_left_after_a_prefix() -> None:
    """One token is enough, none is refused; at least one turn is left; tokens per turn stay."""
    limits = EpisodeLimits(max_turns=4, max_turn_tokens=60, max_response_tokens=10)
    prompt = [1, 2, 3]
    assert limits_after(Prefix((1, 2, 3), 0), prompt, limits) == limits
    assert limits_after(Prefix((1, 2, 3, *range(9)), 2), prompt, limits) == EpisodeLimits(2, 60, 1)
    assert limits_after(Prefix((1, 2, 3, 4), 9), prompt, limits) == EpisodeLimits(1, 60, 9)
    with pytest.raises(ValueError, match="10 tokens after the prompt and leaves none of max_response_tokens=10"):
        limits_after(Prefix((1, 2, 3, *range(10)), 2), prompt, limits)


def test_prefixes_that_do_not_fit_are_refused(roll: Roll, tasks: list[Task], played: list[Trajectory]) -> None:
    """Another task's, too few, too long: before anything is sampled, by the task's name where there is one."""
    prefixes = [prefix_of(t, 1) for t in played]
    meter = Meter(on=True)
    rollout, narrow = roll(meter=meter), roll(EpisodeLimits(4, 10, 10), meter)
    meter.phases.clear()
    with pytest.raises(ValueError, match=f"task {tasks[0].id}: the prefix does not begin with the task's prompt"):
        rollout.collect(tasks, 1, Sampling(), "train", 1, prefixes=prefixes[1:] + prefixes[:1])
    with pytest.raises(ValueError, match="11 prefixes for 12 tasks"):
        rollout.collect(tasks, 1, Sampling(), "train", 1, prefixes=prefixes[1:])
    with pytest.raises(ValueError, match=r"task chain-\d+: the prefix has \d+ tokens .* max_response_tokens=10"):
        narrow.collect(tasks, 1, Sampling(), "train", 1, prefixes=prefixes)
    assert meter.phases == {}


def test_a_tool_that_keeps_state_refuses_replayed_turns(
    acting_model: Any, chat: Chat, tasks: list[Task], played: list[Trajectory]
) -> None:
    """Its interpreter would know nothing of the calls in the conversation; a prefix of the prompt alone is fine."""
    with closing(PythonTool(LocalSandbox(workers=1, preload=[]), 14, 64, stateful=True)) as tool:
        engine = TorchEngine(acting_model, chat.stop_ids, 8)
        rollout = Collector(engine, chat, {"python": tool}, LIMITS, math_reward(), 0)
        with pytest.raises(ValueError, match="tool python keeps state"):
            rollout.collect(tasks[:1], 1, Sampling(), "train", 1, prefixes=[prefix_of(played[0], 1)])
        bare = rollout.collect(tasks[:1], 1, Sampling(), "train", 1, prefixes=[prefix_of(played[0], 0)])
        assert len(bare.trajectories) == 1


def test_a_prefix_fits_the_limits_it_was_played_under(roll: Roll, tasks: list[Task], played: list[Trajectory]) -> None:
    """The longest one of every trajectory, where tight limits cut most of them off."""
    tight = EpisodeLimits(max_turns=3, max_turn_tokens=33, max_response_tokens=70)
    got = roll(tight).collect(tasks, 3, Sampling(), "train", 3).trajectories
    assert StopReason.LENGTH in {t.stop for t in got}
    for t in got:
        left = limits_after(prefix_of(t, 99), t.token_ids[: t.prompt_tokens], tight)
        assert left.max_turns >= 1
        assert left.max_response_tokens >= 1

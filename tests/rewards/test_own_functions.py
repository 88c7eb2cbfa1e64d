"""Reward functions of the user's own: what they take, what they may return, and what is theirs to answer for."""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sod.records import Episode, Fault, FaultKind, SodError, ToolFault, Verdict
from sod.rewards.function import OwnReward, Score, own_reward, scored
from support import answered


def episodes(*texts: str, task: str = "t") -> list[Episode]:
    """The samples of a group that say these texts."""
    said = [answered(text) for text in texts]
    return [
        Episode(replace(one.task, id=task), replace(one.trajectory, task_id=task, sample=number))
        for number, one in enumerate(said)
    ]


def text_of(episode: Episode) -> str:
    return episode.messages[-1].content


def made(function: Any, **options: Any) -> OwnReward:
    return own_reward(function, "mine", "reward.call='m:f'", **options)


def parts(score: Score | Fault) -> dict[str, float]:
    assert isinstance(score, Score), score
    return dict(score.parts)


async def later(episode: Episode) -> float:
    await asyncio.sleep(0)
    return len(text_of(episode)) / 2


class Counting:
    """A reward that keeps something from call to call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, episode: Episode) -> int:
        self.calls += 1
        return len(text_of(episode))


class CountingLater(Counting):
    async def __call__(self, episode: Episode) -> int:  # type: ignore[override]
        return len(text_of(episode))


@pytest.mark.parametrize(
    ("function", "weight", "expected"),
    [
        (lambda episode: 3, 1.0, {"mine": 3.0}),
        (lambda episode: True, 2.0, {"mine": 2.0}),
        (lambda episode: np.float32(0.5), -1.0, {"mine": -0.5}),
        (lambda episode: np.array([4]).sum(), 1.0, {"mine": 4.0}),
        (lambda episode: {"short": 1, "kind": 0.5}, 2.0, {"mine/short": 2.0, "mine/kind": 1.0}),
        (lambda episode: Verdict("x", 0.25), 4.0, {"mine": 1.0}),
        (later, 1.0, {"mine": 1.5}),
        (Counting, 1.0, {"mine": 3.0}),
        (Counting(), 1.0, {"mine": 3.0}),
        (CountingLater, 1.0, {"mine": 3.0}),
        (lambda episode, scale=2: scale, 1.0, {"mine": 2.0}),
        (lambda *given: len(given), 1.0, None),
    ],
)
def test_numbers_mappings_and_verdicts_are_parts(function: Any, weight: float, expected: dict[str, float]) -> None:
    if expected is None:
        with pytest.raises(SodError, match="a reward function takes one episode"):
            made(function)
        return
    (score,) = scored([made(function, weight=weight)], episodes("abc"))
    assert parts(score) == expected


def of_a_list(many: list[Episode]) -> list[float]:
    return [len(many) + number for number, _ in enumerate(many)]


def of_a_sequence(many: Sequence[Episode]) -> Any:
    return np.array([float(len(many))] * len(many))


def by_name(episodes):  # type: ignore[no-untyped-def]
    return tuple(10 * len(episodes) for _ in episodes)


def unseen(many: builtins.list[not_imported.Episode]) -> list[int]:  # type: ignore[name-defined] # noqa: F821
    """Its hints mean something to type checkers alone."""
    return [len(many)] * len(many)


async def of_a_list_later(many: list[Episode]) -> list[dict[str, int]]:
    return [{"of": len(many)} for _ in many]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (of_a_list, [{"mine": 2}, {"mine": 3}, {"mine": 1}, {"mine": 2}, {"mine": 3}]),
        (of_a_sequence, [{"mine": 2}, {"mine": 2}, {"mine": 1}, {"mine": 2}, {"mine": 2}]),
        (by_name, [{"mine": 20}, {"mine": 20}, {"mine": 10}, {"mine": 20}, {"mine": 20}]),
        (unseen, [{"mine": 2}, {"mine": 2}, {"mine": 1}, {"mine": 2}, {"mine": 2}]),
        (of_a_list_later, [{"mine/of": 2}, {"mine/of": 2}, {"mine/of": 1}, {"mine/of": 2}, {"mine/of": 2}]),
    ],
)
def test_a_function_of_a_list_is_called_once_for_a_group(function: Any, expected: list[dict[str, float]]) -> None:
    """A task that is drawn twice in a step makes two groups."""
    played = [*episodes("a", "b"), *episodes("c", task="u"), *episodes("d", "e", task="u")]
    assert [parts(score) for score in scored([made(function)], played)] == expected


def test_several_functions_add_up_and_the_first_verdict_counts() -> None:
    rewards = [
        own_reward(lambda episode: 1.0, "one", "one"),
        own_reward(lambda episode: Verdict(text_of(episode), 1.0, "seen"), "two", "two", 0.5),
        own_reward(lambda episode: Verdict("other", 0.0), "three", "three"),
    ]
    (score,) = scored(rewards, episodes("abc"))
    assert score == Score({"one": 1.0, "two": 0.5, "three": 0.0}, Verdict("abc", 1.0, "seen"))


def raising(error: Exception) -> Any:
    def function(episode: Episode) -> float:
        if text_of(episode) == "bad":
            raise error
        return 1.0

    return function


@pytest.mark.parametrize(
    ("function", "said", "retryable"),
    [
        (raising(ValueError("no\nsuch thing")), r"m:f'.*ValueError: no such thing \(test_own_functions\.py line", True),
        (raising(ToolFault("the service is down")), "ToolFault: the service is down", True),
        (raising(ToolFault("gone", retryable=False)), "ToolFault: gone", False),
        (
            lambda one: math.nan if text_of(one) == "bad" else 1,
            "returned nan for task t, sample 1; return a fin",
            False,
        ),
        (lambda one: {"a": 1, "b": math.inf if text_of(one) == "bad" else 1}, "returned inf as mine/b", False),
    ],
)
def test_what_fails_is_a_fault_of_that_episode_alone(function: Any, said: str, retryable: bool) -> None:
    first, fault, last = scored([made(function)], episodes("good", "bad", "fine"))
    assert isinstance(first, Score)
    assert isinstance(last, Score)
    assert isinstance(fault, Fault)
    assert fault.kind is FaultKind.VERIFIER
    assert fault.retryable == retryable
    assert re.search(said, fault.detail), fault.detail
    assert "\n" not in fault.detail


def test_a_group_faults_as_a_whole_but_for_a_number_that_is_not_finite() -> None:
    def failing(many: list[Episode]) -> list[float]:
        raise ValueError("no")

    def partly(many: list[Episode]) -> list[float]:
        return [1.0, math.nan]

    assert [type(score) for score in scored([made(failing)], episodes("a", "b"))] == [Fault, Fault]
    assert [type(score) for score in scored([made(partly)], episodes("a", "b"))] == [Score, Fault]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda episode: "good", "returned 'good' for task t, sample 0; return a number, or a mapping of names"),
        (lambda episode: None, "returned None for task t, sample 0; return a number"),
        (lambda episode: {"style": "good"}, "returned 'good' as mine/style for task t"),
        (lambda episode: np.array([1.0, 2.0]), r"returned array\(\[1\., 2\.\]\) for task t"),
        (lambda episodes: 1.0, "returned a float for the 2 episodes of task t; return a list with one entry for each"),
        (lambda episodes: [1.0], "returned 1 values for the 2 episodes of task t"),
        (lambda episodes: "ab", "returned a str for the 2 episodes"),
    ],
)
def test_what_is_no_number_stops_the_run_in_one_line(function: Any, said: str) -> None:
    with pytest.raises(SodError, match=said) as caught:
        scored([made(function)], episodes("a", "b"))
    assert str(caught.value).startswith("reward.call='m:f': ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (7, "is a int and cannot be called"),
        (lambda: 1.0, "takes nothing; a reward function takes one episode"),
        (lambda prompt, answer: 1.0, "takes prompt, answer; a reward function"),
        (lambda episode, *, truth: 1.0, "takes episode, truth"),
        (Verdict, "making one failed: TypeError"),
    ],
)
def test_what_cannot_be_called_with_an_episode_is_refused_before_the_run(thing: Any, said: str) -> None:
    with pytest.raises(SodError, match=said):
        made(thing)


def test_a_fault_is_tried_again_and_no_other_call_is() -> None:
    calls: list[str] = []

    def flaky(episode: Episode) -> float:
        calls.append(text_of(episode))
        if text_of(episode) == "bad" and calls.count("bad") < 3:
            raise ConnectionError("once more")
        return 1.0

    assert [type(one) for one in scored([made(flaky)], episodes("good", "bad"), retries=2)] == [Score, Score]
    assert sorted(calls) == ["bad", "bad", "bad", "good"]


def test_a_call_that_hangs_is_a_fault_and_stalls_no_other() -> None:
    over = threading.Event()

    def hanging(episode: Episode) -> float:
        if text_of(episode) == "hang":
            over.wait(60)
        return 1.0

    started = time.monotonic()
    fault, score = scored([made(hanging, seconds=0.2)], episodes("hang", "go"), retries=5)
    over.set()
    assert isinstance(fault, Fault)
    assert "no result within 0.2 s" in fault.detail
    assert isinstance(score, Score)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_calls_run_at_a_time_than_workers(workers: int) -> None:
    now: list[int] = []
    most: list[int] = []

    async def watching(episode: Episode) -> float:
        now.append(1)
        most.append(len(now))
        await asyncio.sleep(0.01)
        now.pop()
        return 1.0

    scored([made(watching, workers=workers)], episodes(*"abcdef"))
    assert max(most) == workers

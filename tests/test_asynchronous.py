"""User code called from code that waits: what blocks the event loop is told of, and another one takes its place."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from sod.asynchronous import LeftBehind, LoopBlockedError, LoopThread, OwnThread, Returned, called, loop_thread


async def soon() -> str:
    await asyncio.sleep(0)
    return "soon"


async def blocking() -> None:
    time.sleep(0.6)


def test_a_blocked_loop_is_told_of_and_another_one_takes_its_place() -> None:
    blocked = loop_thread()
    with pytest.raises(LoopBlockedError):
        blocked.run(blocking(), patience=0.1)
    after = loop_thread()
    assert after is not blocked
    assert after.run(soon()) == "soon"
    assert loop_thread() is after


def test_a_long_call_is_waited_for_where_the_loop_answers() -> None:
    assert loop_thread().run(asyncio.sleep(0.35, "slept"), patience=0.1) == "slept"


def test_a_coroutines_own_time_out_is_its_own() -> None:
    async def late() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        loop_thread().run(late(), patience=0.1)


def test_calls_in_an_own_thread_share_it_and_run_in_order() -> None:
    own, log = OwnThread(), []

    def note(number: int) -> int:
        time.sleep(0.02 / (number + 1))
        log.append((number, threading.get_ident()))
        return number

    async def three() -> list[Any]:
        return await asyncio.gather(*(called(lambda n=n: note(n), 5.0, LeftBehind(), own) for n in range(3)))

    outcomes = LoopThread().run(three())
    own.end()
    assert [outcome.value for outcome in outcomes if isinstance(outcome, Returned)] == [0, 1, 2]
    assert [number for number, _ in log] == [0, 1, 2]
    assert len({thread for _, thread in log} - {threading.get_ident()}) == 1


def test_what_was_left_behind_is_counted_until_it_ends() -> None:
    left, gate = LeftBehind(), threading.Event()
    loop_thread().run(called(gate.wait, 0.05, left))
    assert left.count() == 1
    gate.set()
    until = time.monotonic() + 5
    while left.count() and time.monotonic() < until:
        time.sleep(0.01)
    assert left.count() == 0

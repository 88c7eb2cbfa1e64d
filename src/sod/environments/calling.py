"""Calls of a user's code side by side, each with a limit of time: what hangs is left behind and stalls nobody."""

from __future__ import annotations

import inspect
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from sod.asynchronous import loop_thread

Job = Callable[[], Any]


def called(jobs: Sequence[Job], seconds: float, at_once: int) -> list[Any]:
    """What every job returned, or the exception that it raised, in order; a TimeoutError after `seconds`.

    Up to `at_once` run at a time, each in a thread of its own that does not keep the process from ending.
    """
    outcomes: list[Any] = [None] * len(jobs)
    ready: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    waiting, running = deque(range(len(jobs))), dict[int, float]()
    while waiting or running:
        while waiting and len(running) < at_once:
            at = waiting.popleft()
            running[at] = time.monotonic() + seconds
            threading.Thread(target=_run, args=(jobs[at], at, ready), name="environment", daemon=True).start()
        try:
            at, outcome = ready.get(timeout=max(0.0, min(running.values()) - time.monotonic()))
        except queue.Empty:
            late = [at for at, deadline in running.items() if deadline <= time.monotonic()]
            for at in late:
                outcomes[at] = TimeoutError(f"took longer than {seconds:g} s")
                del running[at]
            continue
        if at in running:  # else it was late, and is nobody's any more
            outcomes[at] = outcome
            del running[at]
    return outcomes


def _run(job: Job, at: int, ready: queue.SimpleQueue[tuple[int, Any]]) -> None:
    try:
        outcome = job()
    except BaseException as error:  # also a SystemExit of the user's code
        outcome = error
    ready.put((at, outcome))


def settled(value: Any) -> Any:
    """What a method returned; what can be awaited is, in the event loop of all the user's code: its clients last."""
    return loop_thread().run(_awaited(value)) if inspect.isawaitable(value) else value


async def _awaited(value: Any) -> Any:
    return await value

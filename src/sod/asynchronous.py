"""Functions of the user's own, sync or async, called side by side from code that waits: each within a time limit.

All async ones of a process run in one event loop, in a thread of its own, so that a client that one call opened serves
the next. A sync one runs in a thread of its own; what hangs there cannot be stopped, it is left behind.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar, final

Result = TypeVar("Result")

BLOCKED_SECONDS = 20.0
"""How long the event loop may not answer before the function that holds it up is told of."""
_SAID = 300  # characters of what an error says


class LoopBlockedError(Exception):
    """An async function keeps the event loop to itself: it waits, or computes, without `await`."""


@final
@dataclass(frozen=True)
class Returned:
    """What a call gave."""

    value: Any
    seconds: float


@final
@dataclass(frozen=True)
class Raised:
    """What a call raised."""

    error: BaseException
    seconds: float


@final
@dataclass(frozen=True)
class TimedOut:
    """The call was not through in time: an async one was cancelled, a sync one was left behind."""

    seconds: float


Called = Returned | Raised | TimedOut


def error_line(error: BaseException) -> str:
    """An exception's type and message; the type alone where there is no message, or making it fails."""
    try:
        said = str(error)
    except Exception:
        said = ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def error_at(error: BaseException) -> str:
    """`error_line` in one line, with the file and line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else ""
    return " ".join(error_line(error).split())[:_SAID] + place


@final
@dataclass(eq=False)
class LeftBehind:
    """The sync calls that have not ended, those that ran out of time among them."""

    _threads: set[threading.Thread] = field(default_factory=set)

    def add(self, thread: threading.Thread) -> None:
        """A call that ran out of time."""
        self._threads.add(thread)

    def count(self) -> int:
        """How many of them run still."""
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        return len(self._threads)


@final
class OwnThread:
    """A daemon thread for the sync calls of one object, which may hold what only its own thread may use (SQLite's
    connections). It starts with the first call.
    """

    def __init__(self) -> None:
        self._works: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self.ended = False

    def begin(self, work: Callable[[], None]) -> threading.Thread:
        """Run `work` after all that came before it; it raises nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="sod-user-object", daemon=True)
            self._thread.start()
        self._works.put(work)
        return self._thread

    def end(self) -> None:
        """Let the thread end after what was begun."""
        self.ended = True
        self._works.put(None)

    def _serve(self) -> None:
        while (work := self._works.get()) is not None:
            work()


@final
class LoopThread:
    """An event loop in a daemon thread; `run` may be called from several threads at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sod-event-loop", daemon=True)
        self._thread.start()
        self.blocked = False

    def run(self, coroutine: Coroutine[Any, Any, Result], patience: float = BLOCKED_SECONDS) -> Result:
        """What the coroutine gives; it has its own time limits.

        Raises LoopBlockedError where the loop does not answer for `patience` seconds, whoever holds it up.
        """
        future = self.begin(coroutine)
        while True:
            try:
                return future.result(timeout=patience)
            except NotYet:
                if future.done():  # just now, or the error is the coroutine's own
                    return future.result()
                if not self._answers(patience):
                    self.blocked = True
                    future.cancel()
                    raise LoopBlockedError from None
            except BaseException:
                future.cancel()
                raise

    def begin(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Start the coroutine, and do not wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _answers(self, seconds: float) -> bool:
        answered = threading.Event()
        self._loop.call_soon_threadsafe(answered.set)
        return answered.wait(seconds)


_current: LoopThread | None = None
_making = threading.Lock()


def loop_thread() -> LoopThread:
    """The event loop of this process; another one after an async function has blocked it."""
    global _current
    with _making:
        if _current is None or _current.blocked:
            _current = LoopThread()
        return _current


async def called(
    function: Callable[[], Any], seconds: float, left_behind: LeftBehind, own: OwnThread | None = None
) -> Called:
    """Call a function within `seconds`; a sync one in the thread `own`, else in a new one. Raises nothing of its own.

    What it returns is awaited where it can be. One that does not end when it is cancelled is not waited for; what is
    called in `own` after it waits until it ends.
    """
    started = time.monotonic()
    thread: threading.Thread | None = None
    if inspect.iscoroutinefunction(function):
        waiting = asyncio.ensure_future(_begun(function))
    else:
        thread, returned = _in_thread(function, own)
        waiting = asyncio.ensure_future(_awaited(returned))
    done, _ = await asyncio.wait({waiting}, timeout=seconds)
    taken = time.monotonic() - started
    if not done:
        waiting.cancel()
        waiting.add_done_callback(_read)
        if thread is not None:
            left_behind.add(thread)
        return TimedOut(taken)
    error = asyncio.CancelledError() if waiting.cancelled() else waiting.exception()
    return Returned(waiting.result(), taken) if error is None else Raised(error, taken)


def _read(late: asyncio.Future[Any]) -> None:
    """Take note of how a call ended that nobody waits for, else the loop complains that nobody did."""
    if not late.cancelled():
        late.exception()


async def _begun(function: Callable[[], Any]) -> Any:
    return await _awaited(function())


async def _awaited(value: Any) -> Any:
    """The value behind all that can be awaited; a tool that leaves the program is an error like any other."""
    try:
        while inspect.isawaitable(value):
            value = await value
    except (SystemExit, KeyboardInterrupt) as error:  # either would end the event loop
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
    return value


def _in_thread(function: Callable[[], Any], own: OwnThread | None) -> tuple[threading.Thread, asyncio.Future[Any]]:
    """A daemon thread, which no end of the program waits for, that calls the function; and what it will return."""
    loop = asyncio.get_running_loop()
    returned = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if not returned.done():
            returned.set_result(value) if error is None else returned.set_exception(error)

    def work() -> None:
        value: Any = None
        error: BaseException | None = None
        try:
            value = function()
        except StopIteration as stop:  # a future cannot hold one
            error = RuntimeError(f"StopIteration: {stop}")
        except BaseException as raised:
            error = raised
        loop.call_soon_threadsafe(settle, value, error)

    if own is not None and not own.ended:
        return own.begin(work), returned
    thread = threading.Thread(target=work, name="sod-user-call", daemon=True)
    thread.start()
    return thread, returned

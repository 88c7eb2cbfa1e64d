"""Objects of a user's class, one for every episode that needs one: made, started and finished within time limits.

Everything here runs in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

from sod.asynchronous import Called, LeftBehind, OwnThread, Raised, Returned, TimedOut, called
from sod.records import SodError, Task

_LATE_SECONDS = 3600.0


@final
@dataclass(frozen=True, eq=False)
class Kept:
    """An object, and the thread that all of its sync methods run in, its making included."""

    value: Any = None
    thread: OwnThread = field(default_factory=OwnThread)


@final
class EpisodeObjects:
    """`start(task)` and `finish()` of `kind` are called where it has them, each within `seconds`.

    `failed` hears, in words, of a `finish` that raises or does not end: nothing waits for it any more.
    """

    def __init__(self, kind: type, seconds: float, failed: Callable[[str], None], where: str) -> None:
        """Raises SodError, beginning with `where`, for a class that cannot be made or started so."""
        self._kind = kind
        self._seconds = seconds
        self._failed = failed
        self._objects: dict[str, Kept] = {}
        self._late: set[asyncio.Task[None]] = set()  # the loop itself keeps no hold of its tasks
        self._starts = _takes(kind, "start", 1, where)
        self._finishes = _takes(kind, "finish", 0, where)
        _refuse_arguments(kind, where)

    async def of(self, episode: str, task: Task, left_behind: LeftBehind) -> Kept | Raised | TimedOut:
        """The object of an episode, which begins here where there is none; or how that went wrong."""
        if episode in self._objects:
            return self._objects[episode]
        thread = OwnThread()
        made = await called(self._kind, self._seconds, left_behind, thread)
        if not isinstance(made, Returned):
            thread.end()
            return made
        if self._starts:
            started = await called(partial(made.value.start, task), self._seconds, left_behind, thread)
            if not isinstance(started, Returned):
                thread.end()
                return started
        self._objects[episode] = Kept(made.value, thread)
        return self._objects[episode]

    def abandon(self, episode: str, left_behind: LeftBehind) -> None:
        """Have a new object for the next call. The old one, which a call is still at work with, finishes after that."""
        kept = self._objects.pop(episode, None)
        if kept is not None:
            late = asyncio.ensure_future(self._finish_late(kept, left_behind))
            self._late.add(late)
            late.add_done_callback(self._late.discard)

    async def _finish_late(self, kept: Kept, left_behind: LeftBehind) -> None:
        if self._finishes:
            self._tell(await called(kept.value.finish, _LATE_SECONDS, left_behind, kept.thread))
        kept.thread.end()

    async def finish(self, episodes: Sequence[str] | None, left_behind: LeftBehind) -> None:
        """Let the objects of these episodes, or all of them, finish and go."""
        names = list(self._objects) if episodes is None else episodes
        over = [self._objects.pop(name) for name in names if name in self._objects]
        finishing = over if self._finishes else []
        calls = [called(one.value.finish, self._seconds, left_behind, one.thread) for one in finishing]
        outcomes = await asyncio.gather(*calls)
        for one in over:
            one.thread.end()
        for outcome in outcomes:
            self._tell(outcome)

    def _tell(self, outcome: Called) -> None:
        if isinstance(outcome, Raised):
            self._failed(f"its finish() raised {type(outcome.error).__name__}: {outcome.error}")
        elif isinstance(outcome, TimedOut):
            self._failed(f"its finish() was not through in {self._seconds:g} s")


def _takes(kind: type, name: str, arguments: int, where: str) -> bool:
    """Whether the class has the method. Raises SodError where it takes another number of arguments."""
    method = getattr(kind, name, None)
    if method is None:
        return False
    try:
        inspect.signature(method).bind(*[None] * (1 + arguments))
    except TypeError as error:
        should = f"{name}(self{', task' if arguments else ''})"
        raise SodError(f"{where}: {kind.__name__}.{name} {error}; it must be {should}") from None
    return True


def _refuse_arguments(kind: type, where: str) -> None:
    try:
        inspect.signature(kind).bind()
    except TypeError as error:
        raise SodError(
            f"{where}: {kind.__name__} cannot be made without arguments: {error}; give them defaults"
        ) from None
    except ValueError:  # a class of compiled code tells nothing of its arguments
        return

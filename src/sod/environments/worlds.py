"""The environments of a run: one for each episode under way, made when one is needed and used again after a reset."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, final

from sod.asynchronous import error_at
from sod.environments.base import (
    Advise,
    Advised,
    Began,
    Closes,
    Ended,
    Environment,
    HasChoices,
    HasExpert,
    Replay,
    Replays,
    Reset,
    RewardsAtEnd,
    Step,
    WorldReply,
    WorldRequest,
)
from sod.environments.calling import called, settled
from sod.environments.replies import BadReplyError, began_with, reward_in, same_texts, stepped_with
from sod.records import Fault, FaultKind, SodError, ToolFault

CLOSE_SECONDS = 10.0


@final
class Worlds:
    """Answers what episodes ask of their environments, many at a time.

    What an environment raises, what it does not return in time and what it returns in the wrong form is a fault. Its
    object is then closed and replaced: only a reset can be tried again.
    """

    def __init__(self, make: Callable[[], Environment], seconds: float = 60.0, at_once: int = 16) -> None:
        """`seconds` bounds every call, of which `at_once` run side by side."""
        self._make = make
        self._seconds = seconds
        self._at_once = at_once
        self._idle: list[Environment] = []
        self._busy: dict[str, Environment] = {}
        self._attempts: dict[str, int] = {}  # how often an episode has asked: what comes too late is nobody's
        self._lock = threading.Lock()  # tools of a run are called from several threads

    def run(self, requests: Sequence[WorldRequest]) -> list[WorldReply | Fault]:
        """One reply or fault for each request, in order. Raises SodError where an environment does."""
        with self._lock:
            for request in requests:
                self._attempts[request.episode] = self._attempts.get(request.episode, 0) + 1
            jobs = [partial(self._answer, request, self._attempts[request.episode]) for request in requests]
        outcomes = called(jobs, self._seconds, self._at_once)
        return [self._outcome(request, outcome) for request, outcome in zip(requests, outcomes, strict=True)]

    def finish(self, episodes: Sequence[str]) -> None:
        """These episodes are over: their environments are free. Unknown names are ignored."""
        with self._lock:
            for episode in episodes:
                self._attempts.pop(episode, None)
                if (world := self._busy.pop(episode, None)) is not None:
                    self._idle.append(world)

    def close(self) -> None:
        """Close every environment. Safe to call twice."""
        with self._lock:
            worlds = [*self._idle, *self._busy.values()]
            self._idle, self._busy = [], {}
        _close(worlds)

    def _answer(self, request: WorldRequest, attempt: int) -> WorldReply:
        do = request.do
        if isinstance(do, Reset):
            return self._reset(request.episode, do, attempt)
        with self._lock:
            world = self._busy[request.episode]
        if isinstance(do, Step):
            return _step(world, do)
        if isinstance(do, Advise):
            return _advise(world, do)
        return _replay(world, do) if isinstance(do, Replay) else _end(world)

    def _reset(self, episode: str, do: Reset, attempt: int) -> Began:
        with self._lock:
            world = self._busy.pop(episode, None)
            if world is None and self._idle:
                world = self._idle.pop()
        made = settled(self._make()) if world is None else world
        with self._lock:
            late = self._attempts.get(episode) != attempt
            if not late:
                self._busy[episode] = made
        if late:
            _close([made])
            raise TimeoutError("made too late")
        return began_with(settled(made.reset(do.task, do.seed)))

    def _outcome(self, request: WorldRequest, outcome: Any) -> WorldReply | Fault:
        if not isinstance(outcome, BaseException):
            reply: WorldReply = outcome
            return reply
        if isinstance(outcome, SodError):
            raise outcome
        with self._lock:
            lost = self._busy.pop(request.episode, None)
            self._attempts[request.episode] = self._attempts.get(request.episode, 0) + 1
        if lost is not None:  # nobody waits for it: what hangs in a step may hang in its end too
            threading.Thread(target=_close, args=([lost],), name="environment", daemon=True).start()
        resets = isinstance(request.do, Reset)
        again = outcome.retryable if isinstance(outcome, ToolFault) else not isinstance(outcome, BadReplyError)
        what = type(request.do).__name__.lower()
        return Fault(FaultKind.ENVIRONMENT, f"{what}: {_said(outcome)}", retryable=resets and again)


def _step(world: Environment, do: Step) -> WorldReply:
    return stepped_with(settled(world.step(do.action)), do.action)


def _advise(world: Environment, do: Advise) -> WorldReply:
    """Raises SodError where the environment has no such method."""
    if do.about == "expert" and isinstance(world, HasExpert):
        return Advised((settled(world.expert()),))
    if do.about == "choices" and isinstance(world, HasChoices):
        return Advised(tuple(settled(world.choices())))
    raise SodError(f"{type(world).__name__} has no {do.about}(); define it, as docs/environments.md says")


def _replay(world: Environment, do: Replay) -> WorldReply:
    """By `replay` where there is one; else step by step, where every answer has to be the one that was read before."""
    if isinstance(world, Replays):
        settled(world.replay(do.actions))
        return Ended()
    for action, expected in zip(do.actions, do.expected, strict=True):
        stepped = stepped_with(settled(world.step(action)), action)
        same_texts(action, [result.text for result in stepped.results], expected)
    return Ended()


def _end(world: Environment) -> WorldReply:
    if not isinstance(world, RewardsAtEnd):
        return Ended()
    return Ended(reward_in(settled(world.final_reward())))


def _close(worlds: Sequence[Environment]) -> None:
    """Close those that can be; one that fails or hangs in it is of no use any more, and does no harm."""
    jobs = [partial(_closed, world) for world in worlds if isinstance(world, Closes)]
    with contextlib.suppress(Exception):
        called(jobs, CLOSE_SECONDS, max(1, len(jobs)))


def _closed(world: Closes) -> None:
    settled(world.close())


def _said(error: BaseException) -> str:
    """What went wrong, in one line, and where in the user's code."""
    return " ".join(str(error).split()) if isinstance(error, BadReplyError | TimeoutError) else error_at(error)

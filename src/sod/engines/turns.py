"""The turns that an engine in this process samples: who waits, who is under way, and what all of them share.

Both engines take turns in and let them go here; what is run in between, and on which cache, is theirs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

from sod.engines.base import Sampled, SampleRequest, Sampling

Ended = tuple[str, Sampled]
"""A turn that is over, by its session."""


@final
@dataclass
class Row:
    """One turn, while it waits or is being sampled; `cached` tokens of its episode are in its slot of the cache."""

    request: SampleRequest
    token_ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    cached: int = 0
    stopped: bool = False

    @property
    def session(self) -> str:
        """The name of the episode."""
        return self.request.session

    @property
    def context(self) -> tuple[int, ...]:
        """The episode's tokens before this turn."""
        return tuple(self.request.token_ids)

    @property
    def length(self) -> int:
        """Tokens of the episode, those sampled in this turn included."""
        return len(self.request.token_ids) + len(self.token_ids)

    @property
    def left(self) -> int:
        """Tokens that the turn may still get."""
        return 0 if self.stopped else max(0, self.request.max_new_tokens - len(self.token_ids))

    @property
    def total(self) -> int:
        """Tokens of the episode at the end of this turn, at most."""
        return len(self.request.token_ids) + self.request.max_new_tokens

    @property
    def done(self) -> bool:
        """Whether the turn ended, in a stop token or at its limit."""
        return self.left == 0

    @property
    def last_token(self) -> int:
        """The last of these tokens."""
        return self.token_ids[-1] if self.token_ids else self.request.token_ids[-1]

    def uncached(self) -> Sequence[int]:
        """The tokens that the model has not seen yet: at least one."""
        if self.token_ids:
            return self.token_ids[-1:]
        return self.request.token_ids[self.cached :]

    def add(self, token_ids: Sequence[int], logps: Sequence[float], stop_ids: frozenset[int]) -> None:
        """Tokens that were sampled: only the last may be one to stop at."""
        self.token_ids += token_ids
        self.logps += logps
        self.stopped = token_ids[-1] in stop_ids


@final
@dataclass(frozen=True)
class Room:
    """How many rows a batch has, and how many more may come into it."""

    rows: int
    free: int


@final
class Turns:
    """The turns under way by their sessions; of these, those that wait are not in the batch yet."""

    def __init__(self) -> None:
        self.under_way: dict[str, Row] = {}
        self.waiting: deque[Row] = deque()
        self.sampling = Sampling()
        self.version = 0
        self._closed = False

    def submit(
        self, requests: Sequence[SampleRequest], sampling: Sampling, refuse_longest: Callable[[int], None]
    ) -> None:
        """Queue turns; `refuse_longest` raises where the engine cannot sample so many tokens. See `Engine.submit`."""
        self._refuse_closed()
        self._refuse_clash(requests, sampling)
        refuse_longest(max((len(request.token_ids) + request.max_new_tokens for request in requests), default=0))
        rows = [Row(request) for request in requests]
        self.sampling = sampling
        self.under_way |= {row.session: row for row in rows}
        self.waiting.extend(rows)

    def admit(self, room: Callable[[], Room], start: Callable[[Sequence[Row]], list[Ended]]) -> list[Ended]:
        """Let waiting turns into the batch: `start` prefills them and samples their first token.

        The turns that end with it, and those that have no room for a single token.
        """
        finished: list[Ended] = []
        # Again and again: a turn that ends with its first token makes room at once.
        while self.waiting:
            now = room()
            # Not one by one, as a prefill of a single row costs almost as much as one of several, and as some caches
            # are made anew for those who come: turns wait until an eighth of the batch is free or all of them fit.
            # Into an empty batch they come at once.
            several = max(1, (now.rows + now.free) // 8)
            if now.rows and now.free < min(len(self.waiting), several):
                break
            rows = [self.waiting.popleft() for _ in range(min(now.free, len(self.waiting)))]
            finished += [self.ended(row) for row in rows if row.done]
            rows = [row for row in rows if not row.done]
            if rows:
                finished += start(rows)
        return finished

    def ended(self, row: Row) -> Ended:
        """A turn is over: it is under way no longer."""
        del self.under_way[row.session]
        # `sync` is refused while turns are under way, so every token of a turn has the version of its last.
        return row.session, Sampled(tuple(row.token_ids), tuple(row.logps), row.stopped, self.version)

    def to_the_end(self, requests: Sequence[SampleRequest], advance: Callable[[int], Sequence[Ended]]) -> list[Sampled]:
        """Go on until nothing is under way: the turns that were asked for, in the order of the requests."""
        turns: dict[str, Sampled] = {}
        while self.under_way:
            turns |= dict(advance(1024))
        return [turns[request.session] for request in requests]

    def refuse_sync(self) -> None:
        """Raises ValueError where the weights may not change: as `Engine.sync` says."""
        self._refuse_closed()
        if self.under_way:
            raise ValueError("the weights changed while turns were being sampled")

    def close(self) -> None:
        """Drop all turns and take no more."""
        self._closed = True
        self.under_way.clear()
        self.waiting.clear()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ValueError("the engine is closed")

    def _refuse_clash(self, requests: Sequence[SampleRequest], sampling: Sampling) -> None:
        if self.under_way and sampling != self.sampling:
            raise ValueError("turns with other sampling settings are still under way")
        sessions = [*self.under_way, *(request.session for request in requests)]
        if len(set(sessions)) < len(sessions):
            raise ValueError("a session has two turns under way")

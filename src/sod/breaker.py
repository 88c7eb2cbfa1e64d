"""The circuit breaker of a client: after many failures in a row its service is left alone for a while."""

from __future__ import annotations

import time
from typing import final

from sod.records import Fault


@final
class Breaker:
    """Counts failures in a row over all threads' requests; used from the event loop only.

    `seconds` after it opened one request is let through: if that succeeds it closes, else it stays
    open for as long again.
    """

    def __init__(self, failures: int, seconds: float) -> None:
        self._failures = failures
        self._seconds = seconds
        self._in_a_row = 0
        self._last: Fault | None = None
        self._opened: float | None = None
        self._on_trial = False

    def refusal(self) -> Fault | None:
        """None where a request may go out now, else the fault to answer with."""
        if self._opened is None or self._last is None:
            return None
        if not self._on_trial and time.monotonic() >= self._opened + self._seconds:
            self._on_trial = True
            return None
        detail = f"not asked: {self._in_a_row} requests failed in a row, the last: {self._last.detail}"
        return Fault(self._last.kind, detail, self._last.retryable)

    def succeeded(self) -> None:
        self._in_a_row, self._opened, self._on_trial = 0, None, False

    def failed(self, fault: Fault) -> None:
        self._in_a_row += 1
        self._last, self._on_trial = fault, False
        if self._in_a_row >= self._failures:
            self._opened = time.monotonic()

    def abandoned(self) -> None:
        """A request was given up by us: says nothing, and if it was the trial the next may be it."""
        self._on_trial = False

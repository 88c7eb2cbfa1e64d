"""Ctrl-C and SIGTERM while something runs that wants to end in good order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_stop_request(react: Callable[[int], None]) -> Iterator[None]:
    """Call `react` with the signal's number at every SIGINT and SIGTERM inside; what it raises goes up from there.

    The handlers of before are put back at the end. Must be entered in the main thread, as signals are its own.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        react(number)

    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)

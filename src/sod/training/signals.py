"""Ctrl-C and SIGTERM while something runs that wants to end in good order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_stop_request(react: Callable[[int], None]) -> Iterator[None]:
    """Call `react` with the signal's number at every SIGINT and SIGTERM inside; what it raises goes up from there.

    The handlers of before are put back at the end. Outside of the main thread nothing is changed: signals are the main
    thread's own, and so is the reaction to them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: FrameType | None) -> None:
        react(number)

    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)

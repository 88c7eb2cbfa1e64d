"""Ctrl-C, SIGTERM and a closed terminal while something runs that wants to end in good order."""

from __future__ import annotations

import errno
import os
import signal
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def on_stop_request(react: Callable[[int], None]) -> Iterator[None]:
    """Call `react` with the signal's number at every stop signal inside; what it raises goes up from there.

    A SIGHUP that is ignored, as under `nohup`, stays so. One that comes from a closed terminal comes several times,
    and is told once; what is still printed then goes nowhere.

    The handlers of before are put back at the end. Outside of the main thread nothing is changed: signals are the main
    thread's own, and so is the reaction to them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hung_up: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave_closed_terminal()
            if hung_up:
                return
            hung_up.append(number)
        react(number)

    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS if _heard(number)}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _heard(number: signal.Signals) -> bool:
    return number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN


def _leave_closed_terminal() -> None:
    """Have standard output and error go nowhere where they were a terminal that is gone: writing to it is an error."""
    for stream in (1, 2):
        try:
            termios.tcgetattr(stream)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream)
                os.close(null)

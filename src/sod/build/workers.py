"""Worker processes for `sod compare` and `sod eval`: one call at a time each, and nothing of ours is imported before
the first.

A worker is no daemon, because tools and verifiers start processes of their own. It leads a session of its own, so
that Ctrl-C at the terminal reaches the parent alone, which then asks the workers to stop, once. It ends when its
parent does.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any, final

from sod.build.allocation import forget_tunables, tunables_for_workers
from sod.records import SodError

GRACE_SECONDS = 15.0  # for a training step under way and its checkpoint
NUMBER = "SOD_WORKER"
"""Of which worker a process is, from 0, in its environment; one that died is followed by one of its number."""


@final
@dataclass(frozen=True)
class Ended:
    """How a call ended: with a `value`, or with an `error` for the user; `lost` where its process ended under it."""

    key: Any
    value: Any = None
    error: str | None = None
    lost: bool = False


@final
@dataclass
class _WorkerProcess:
    process: Any  # a spawn context's process has no public type
    connection: Connection
    number: int
    key: Any = None
    busy: bool = False


@final
class WorkerPool:
    """Up to `count` processes. Not for use by several threads at once; `close` it."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._workers: list[_WorkerProcess] = []

    @property
    def idle(self) -> int:
        """How many calls can be submitted now."""
        return self._count - self.busy

    @property
    def busy(self) -> int:
        """How many calls are under way."""
        return sum(worker.busy for worker in self._workers)

    def submit(self, key: Any, function: Callable[..., Any], *arguments: Any) -> None:
        """Run `function(*arguments)` in a worker that is idle, or new. All of it must be picklable."""
        worker = next((worker for worker in self._workers if not worker.busy), None) or self._start()
        worker.connection.send((function, arguments))
        worker.key, worker.busy = key, True

    def wait(self) -> Ended:
        """The next call to end. A worker that died is an error, and the next call gets a new one."""
        busy = {worker.connection: worker for worker in self._workers if worker.busy}
        worker = busy[next(c for c in wait(list(busy)) if isinstance(c, Connection))]
        worker.busy = False
        try:
            value, error = worker.connection.recv()
        except (EOFError, ConnectionError):
            self._workers.remove(worker)
            worker.connection.close()
            worker.process.join()
            return Ended(
                worker.key,
                error=f"its process ended with code {worker.process.exitcode} (-9: out of memory?)",
                lost=True,
            )
        return Ended(worker.key, value, error)

    def close(self) -> None:
        """End every worker: training stops after its step, with a checkpoint; what does not stop in time is killed."""
        try:
            for worker in self._workers:
                worker.connection.close()  # enough for one that is idle
                if worker.busy:
                    worker.process.terminate()
            limit = time.monotonic() + GRACE_SECONDS
            for worker in self._workers:
                worker.process.join(max(0.0, limit - time.monotonic()))
        finally:  # also when a second Ctrl-C cuts the waiting short
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()
            self._workers.clear()

    def _start(self) -> _WorkerProcess:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        taken = {worker.number for worker in self._workers}
        number = next(free for free in range(self._count) if free not in taken)
        process = context.Process(target=_serve, args=(theirs, number))
        with tunables_for_workers():
            process.start()
        theirs.close()  # else the end of the worker would not be the end of the pipe
        self._workers.append(_WorkerProcess(process, ours, number))
        return self._workers[-1]


def _serve(connection: Connection, number: int) -> None:
    """Run calls until the parent closes the pipe or the process is asked to stop."""
    forget_tunables()
    os.environ[NUMBER] = str(number)
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, ConnectionError):  # the parent's way to say that there is nothing more to do
        while True:
            function, arguments = connection.recv()
            connection.send(_called(function, arguments))


def _called(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, str | None]:
    # Training has a handler of its own while it takes its steps.
    signal.signal(signal.SIGTERM, _leave)
    try:
        return function(*arguments), None
    except SodError as error:
        return None, str(error)
    except Exception:  # one call that fails must not cost the others; the user sees all of it
        return None, traceback.format_exc()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(number: int, frame: FrameType | None) -> None:
    """End by an exception, so that tools are closed on the way."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)


def _end_with_parent() -> None:
    """Ask this process to stop when its parent is gone, then insist."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)

"""The zygote processes of a `LocalSandbox`, seen from our side: started, spoken to, lost, replaced."""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sod.records import Fault, FaultKind
from sod.tools.sandbox.wire import pack, unpack

START_SECONDS = 60.0  # imports of `preload` on a busy machine
GRACE_SECONDS = 15.0  # beyond the time limit of a program, before its worker counts as lost
ATTEMPTS = 2
Reply = tuple[dict[str, Any], list[bytes]]


class WorkerLostError(Exception):
    """A worker died, hung, or reported a failure of its own."""


@dataclass(frozen=True, eq=False)
class Worker:
    """One zygote and its channel. Used by one thread at a time."""

    process: subprocess.Popen[bytes]
    channel: socket.socket

    def ask(self, head: dict[str, Any], blobs: Sequence[bytes], seconds: float) -> Reply:
        """Send a request and wait for its reply. Raises WorkerLostError."""
        self.channel.settimeout(seconds)
        try:
            self.channel.sendall(pack(head, blobs))
        except OSError as error:
            raise WorkerLostError(f"worker lost: {error}") from error
        return self.reply(seconds)

    def reply(self, seconds: float) -> Reply:
        """The next reply; waits `seconds` at most. Raises WorkerLostError."""
        deadline = time.monotonic() + seconds
        try:
            head, blobs = unpack(lambda length: self._read(length, deadline))
        except OSError as error:
            raise WorkerLostError(f"worker lost: {error}") from error
        if head["status"] == "fault":
            raise WorkerLostError(head["detail"])
        return head, blobs

    def _read(self, length: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < length:
            self.channel.settimeout(max(0.001, deadline - time.monotonic()))
            chunk = self.channel.recv(length - len(data))
            if not chunk:
                raise OSError("its channel closed")
            data += chunk
        return bytes(data)

    def end(self, orderly: bool) -> None:
        """Close the channel, which ends the worker; kill it where that is not enough."""
        self.channel.close()
        try:
            self.process.wait(1.0 if orderly else 0.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def spawn(config: Mapping[str, Any]) -> Worker:
    """Start a zygote in a clean environment; its first reply is still to come. Raises OSError."""
    ours, theirs = socket.socketpair()
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",  # nothing about this machine
        "LANG": "C.UTF-8",
        "LD_BIND_NOW": "1",  # symbols are bound here once, not in every fork
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),  # where `sandbox` is; for the start only
        "PYTHONHASHSEED": "0",  # one order of sets in all workers
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    site = [] if config["preload"] else ["-S"]
    command = [sys.executable, "-s", "-P", "-B", *site, "-X", "utf8", "-m", "sandbox.zygote"]
    try:
        process = subprocess.Popen(
            [*command, json.dumps({**config, "channel": theirs.fileno(), "owner": os.getpid()})],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return Worker(process, ours)


class Pool:
    """`size` workers, each lent to one thread at a time, in the order of asking.

    Raises WorkerLostError or OSError where they cannot all be started.
    """

    def __init__(self, config: Mapping[str, Any], size: int) -> None:
        self._config = config
        self._size = size
        self._idle: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()  # None: one that was lost
        self._alive: set[Worker] = set()
        self._lock = threading.Lock()  # of `_alive` and `_closed`
        self._closed = False
        self.started: dict[str, Any] = {}  # what the first worker said of itself
        try:
            for worker in [self._spawn() for _ in range(size)]:
                self.started = worker.reply(START_SECONDS)[0]
                self._idle.put(worker)
        except BaseException:
            self.close()
            raise

    def ask(self, head: dict[str, Any], blobs: Sequence[bytes], seconds: float) -> Reply | Fault:
        """Have a free worker answer, within `seconds`; where it is lost a new one is asked once more."""
        worker = self._idle.get()
        try:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    worker = worker or self._start()
                except (WorkerLostError, OSError) as error:
                    return self._fault(f"no worker starts: {error}")
                try:
                    return worker.ask(head, blobs, seconds + GRACE_SECONDS)
                except WorkerLostError as error:
                    self._drop(worker)
                    worker = None
                    fault = self._fault(f"{error} ({attempt} attempts)")
            return fault
        except BaseException:  # an interrupt: the worker's reply would answer the next question
            if worker is not None:
                self._drop(worker)
                worker = None
            raise
        finally:
            self._idle.put(worker)

    def pids(self) -> list[int]:
        """Of the workers alive; each has descendants."""
        with self._lock:
            return [worker.process.pid for worker in self._alive]

    def close(self) -> None:
        """End all workers, busy ones too. Safe to call twice."""
        with self._lock:
            self._closed = True
            workers = list(self._alive)
            for worker in workers:  # wakes the threads that wait for them
                self._alive.discard(worker)
                worker.channel.shutdown(socket.SHUT_RDWR)
        for worker in workers:
            worker.end(orderly=True)

    def _fault(self, detail: str) -> Fault:
        return closed_fault() if self._closed else Fault(FaultKind.SANDBOX, detail)

    def _spawn(self) -> Worker:
        with self._lock:
            if self._closed:
                raise OSError("the sandbox is closed")
            worker = spawn(self._config)
            self._alive.add(worker)
            return worker

    def _start(self) -> Worker:
        worker = self._spawn()
        try:
            worker.reply(START_SECONDS)
        except BaseException:
            self._drop(worker)
            raise
        return worker

    def _drop(self, worker: Worker) -> None:
        with self._lock:
            if worker not in self._alive:  # `close` sees to it
                return
            self._alive.discard(worker)
        worker.end(orderly=False)


def closed_fault() -> Fault:
    """The answer to whoever asks a closed sandbox."""
    return Fault(FaultKind.SANDBOX, "the sandbox is closed", retryable=False)

"""The fork servers of a `LocalSandbox`, seen from our side: started, spoken to, lost, replaced."""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, final

from sod.records import Fault, FaultKind
from sod.tools.sandbox.base import Recall
from sod.tools.sandbox.cgroup import Cgroup
from sod.tools.sandbox.wire import pack, unpack

START_SECONDS = 60.0  # imports of `preload` on a busy machine
GRACE_SECONDS = 15.0  # beyond the time limit of a program, before its fork server counts as lost
ATTEMPTS = 2
Reply = tuple[dict[str, Any], list[bytes]]


class ForkServerLostError(Exception):
    """A fork server died, hung, or reported a failure of its own."""


@final
@dataclass(frozen=True, eq=False)
class ForkServer:
    """The process that `fork_server.py` runs in, and the channel to it. Used by one thread at a time."""

    process: subprocess.Popen[bytes]  # its monitor, where there are pid namespaces
    channel: socket.socket
    cgroup: Cgroup | None = None  # of its programs

    def ask(self, head: dict[str, Any], blobs: Sequence[bytes], seconds: float, recall: Recall | None = None) -> Reply:
        """Send a request and wait for its reply, `seconds` at most. Raises ForkServerLostError."""
        self.channel.settimeout(seconds)
        try:
            self.channel.sendall(pack(head, blobs))
        except OSError as error:
            raise ForkServerLostError(f"worker lost: {error}") from error
        with nullcontext() if recall is None else recall.running(self.stop):
            return self.reply(seconds)

    def stop(self) -> None:
        """Have it stop the program that it runs, whose reply comes at once; where it runs none nothing happens."""
        with suppress(OSError):  # lost: whoever waits for its reply sees that
            self.channel.sendall(pack({"what": "stop"}))

    def reply(self, seconds: float) -> Reply:
        """The next reply; waits `seconds` at most. Raises ForkServerLostError."""
        deadline = time.monotonic() + seconds
        try:
            head, blobs = unpack(lambda length: self._read(length, deadline))
        except OSError as error:
            raise ForkServerLostError(f"worker lost: {error}") from error
        if head["status"] == "fault":
            raise ForkServerLostError(head["detail"])
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
        """Close the channel, which ends the process; kill it where it is not gone at once (`orderly`: in a second)."""
        self.channel.close()
        try:
            self.process.wait(1.0 if orderly else 0.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.cgroup is not None:
            self.cgroup.remove()


def spawn(config: Mapping[str, Any], cgroup: Cgroup | None = None) -> ForkServer:
    """Start a fork server in a clean environment; its first reply is still to come. Raises OSError.

    Its programs are to enter `cgroup`, which is removed with it.
    """
    ours, theirs = socket.socketpair()
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",  # nothing about this machine
        "LANG": "C.UTF-8",
        "LD_BIND_NOW": "1",  # symbols are bound here once, not in every fork
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),  # where `sandbox` is; for the start only
        "PYTHONHASHSEED": "0",  # one order of sets in all fork servers
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    site = [] if config["preload"] else ["-S"]
    command = [sys.executable, "-s", "-P", "-B", *site, "-X", "utf8", "-m", "sandbox.fork_server"]
    passed = list(astuple(cgroup.open())) if cgroup is not None else []
    ids = {"channel": theirs.fileno(), "cgroup": passed, "owner": os.getpid()}
    try:
        process = subprocess.Popen(
            [*command, json.dumps({**config, **ids})],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno(), *passed],
            start_new_session=True,
        )
    except OSError:
        ours.close()
        if cgroup is not None:
            cgroup.remove()
        raise
    finally:
        theirs.close()
        for descriptor in passed:
            os.close(descriptor)
    return ForkServer(process, ours, cgroup)


@final
class Pool:
    """`size` fork servers, each lent to one thread at a time, in the order of asking.

    `new_cgroup` makes one for the programs of each; without it their memory is watched by the fork server.
    Raises ForkServerLostError or OSError where they cannot all be started.
    """

    def __init__(self, config: Mapping[str, Any], size: int, new_cgroup: Callable[[], Cgroup] | None = None) -> None:
        self._config = config
        self._size = size
        self._new_cgroup = new_cgroup
        self._idle: queue.SimpleQueue[ForkServer | None] = queue.SimpleQueue()  # None: one that was lost
        self._alive: set[ForkServer] = set()
        self._lock = threading.Lock()  # of `_alive` and `_closed`
        self._closed = False
        self.started: dict[str, Any] = {}  # what a fork server said of itself; all say the same
        try:
            for server in [self._spawn() for _ in range(size)]:  # all at once: each imports `preload`
                self.started = server.reply(START_SECONDS)[0]
                self._idle.put(server)
        except BaseException:
            self.close()
            raise

    def ask(
        self, head: dict[str, Any], blobs: Sequence[bytes], seconds: float, recall: Recall | None = None
    ) -> Reply | Fault:
        """Have a free fork server answer, within `seconds`; where it is lost a new one is asked once more."""
        server = self._idle.get()
        try:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    server = server or self._start()
                except (ForkServerLostError, OSError) as error:
                    return self._fault(f"no worker starts: {error}")
                try:
                    return server.ask(head, blobs, seconds + GRACE_SECONDS, recall)
                except ForkServerLostError as error:
                    self._drop(server)
                    server = None
                    fault = self._fault(f"{error} ({attempt} attempts)")
                if recall is not None and recall.called:
                    break
            return fault
        except BaseException:  # an interrupt: the reply still to come would answer the next question
            if server is not None:
                self._drop(server)
                server = None
            raise
        finally:
            self._idle.put(server)  # or None in its place, for which whoever gets it starts a new one

    def pids(self) -> list[int]:
        """The pids of the processes that we started and that live; each has descendants."""
        with self._lock:
            return [server.process.pid for server in self._alive]

    def close(self) -> None:
        """End all fork servers, busy ones too. Safe to call twice."""
        with self._lock:
            self._closed = True
            servers = list(self._alive)
            for server in servers:  # wakes the threads that wait for them
                self._alive.discard(server)
                server.channel.shutdown(socket.SHUT_RDWR)
        for server in servers:
            server.end(orderly=True)

    def _fault(self, detail: str) -> Fault:
        return closed_fault() if self._closed else Fault(FaultKind.SANDBOX, detail)

    def _spawn(self) -> ForkServer:
        with self._lock:
            if self._closed:
                raise OSError("the sandbox is closed")
            server = spawn(self._config, self._new_cgroup() if self._new_cgroup is not None else None)
            self._alive.add(server)
            return server

    def _start(self) -> ForkServer:
        server = self._spawn()
        try:
            server.reply(START_SECONDS)
        except BaseException:
            self._drop(server)
            raise
        return server

    def _drop(self, server: ForkServer) -> None:
        with self._lock:
            if server not in self._alive:  # `close` has taken it, and ends it
                return
            self._alive.discard(server)
        server.end(orderly=False)


def closed_fault() -> Fault:
    """The answer to whoever asks a closed sandbox."""
    return Fault(FaultKind.SANDBOX, "the sandbox is closed", retryable=False)

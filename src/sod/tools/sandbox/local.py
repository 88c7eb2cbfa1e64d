"""The default sandbox: programs run on this machine, in forks of warm workers (see `zygote.py`).

What the kernel keeps from a program is in `LocalSandbox.isolation`. Known limits: files that every
user may read can be read, and a program's processes are bounded in memory each, not together.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

from sod.records import Fault, SodError
from sod.tools.sandbox.base import Execution, Limits, Status
from sod.tools.sandbox.zygote import REPLY, REQUEST, STATUSES

START_SECONDS = 60.0  # imports of `preload` on a busy machine
GRACE_SECONDS = 15.0  # beyond the time limit of a program, before its worker counts as lost
ATTEMPTS = 2


class WorkerLostError(Exception):
    """A worker died, hung, or reported a failure of its own."""


@dataclass
class _Job:
    index: int
    program: str
    attempts: int = 0


@dataclass
class _Worker:
    """One zygote, its channel, and the job it is at."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    job: _Job | None = None
    deadline: float = 0.0
    isolation: Mapping[str, bool] = field(default_factory=dict)

    def read_reply(self) -> tuple[str, float, bytes, bytes]:
        """One reply; blocks until it is complete, at most the channel's timeout. Raises WorkerLostError."""
        try:
            head = self._read(REPLY.size)
            status, seconds, out, err = REPLY.unpack(head)
            body = self._read(out + err)
        except OSError as error:
            raise WorkerLostError(f"worker lost: {error}") from error
        if STATUSES[status] == "fault":
            raise WorkerLostError(body.decode("utf-8", "replace"))
        return STATUSES[status], seconds, body[:out], body[out:]

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            chunk = self.channel.recv(length - len(data))
            if not chunk:
                raise OSError("its channel closed")
            data += chunk
        return data

    def give(self, job: _Job, seconds: float) -> None:
        """Hand over a program. Raises WorkerLostError."""
        self.job = job
        job.attempts += 1
        self.deadline = time.monotonic() + seconds + GRACE_SECONDS
        source = job.program.encode("utf-8", "surrogatepass")
        try:
            self.channel.sendall(REQUEST.pack(len(source)) + source)
        except OSError as error:
            raise WorkerLostError(f"worker lost: {error}") from error

    def end(self, orderly: bool) -> None:
        """Close the channel, which ends the worker; kill it where that is not enough."""
        self.channel.close()
        try:
            self.process.wait(1.0 if orderly else 0.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class LocalSandbox:
    """Runs programs in up to `workers` processes at a time, each program in a fork of its own.

    `preload` names modules that are imported before the forks (numpy, sympy): without any, only the
    standard library is importable. `unsafe` accepts a machine that does not permit the isolation.
    Raises SodError when a worker cannot start or the isolation is not to be had. Calls from several
    threads run one after the other.
    """

    def __init__(
        self,
        limits: Limits = Limits(),  # noqa: B008  # frozen
        workers: int = 2,
        preload: Sequence[str] = (),
        unsafe: bool = False,
    ) -> None:
        if workers < 1:
            raise SodError(f"sandbox: workers must be at least 1, not {workers}")
        self.limits = limits
        self.workers = workers
        self._preload = tuple(preload)
        self._unsafe = unsafe
        self._lock = threading.Lock()
        self._closed = False
        self._selector = selectors.DefaultSelector()
        self._pool: list[_Worker] = []
        try:
            self._fill_pool()
        except (WorkerLostError, OSError) as error:
            self.close()
            raise SodError(f"sandbox: {error}") from error
        self._isolation = dict(self._pool[0].isolation)

    @property
    def isolation(self) -> Mapping[str, bool]:
        """What is kept from the programs: `unprivileged`, `network`, `pid_namespace`, `filesystem`."""
        return self._isolation

    def execute(self, programs: Sequence[str]) -> list[Execution | Fault]:
        """Run every program; see `Sandbox.execute`. A program whose worker is lost is tried once more."""
        with self._lock:
            if self._closed:
                return [Fault("sandbox", "the sandbox is closed") for _ in programs]
            try:
                return self._execute(programs)
            except BaseException:  # an interrupt: the workers' replies would answer the wrong question
                self._drop(list(self._pool))
                raise

    def close(self) -> None:
        """End the workers. Safe to call twice."""
        with self._lock:
            self._drop(list(self._pool), orderly=True)
            self._closed = True
            self._selector.close()

    def _execute(self, programs: Sequence[str]) -> list[Execution | Fault]:
        results: list[Execution | Fault | None] = [None] * len(programs)
        pending = deque(_Job(index, program) for index, program in enumerate(programs))
        while pending or any(worker.job for worker in self._pool):
            if len(self._pool) < self.workers:
                self._refill(pending, results)
            for worker in list(self._pool):
                if pending and worker.job is None:
                    self._attempt(worker, pending, results, pending.popleft())
            for worker in self._ready():
                self._attempt(worker, pending, results)
        return cast("list[Execution | Fault]", results)

    def _ready(self) -> list[_Worker]:
        """The busy workers that replied, died or are long overdue; waits for the first."""
        busy = [worker for worker in self._pool if worker.job]
        if not busy:
            return []
        wait = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
        ready = [key.data for key, _ in self._selector.select(wait)]
        now = time.monotonic()
        return ready + [worker for worker in busy if worker.deadline < now and worker not in ready]

    def _attempt(
        self,
        worker: _Worker,
        pending: deque[_Job],
        results: list[Execution | Fault | None],
        job: _Job | None = None,
    ) -> None:
        """Give a worker its next job, or take the reply to the last; see to a lost worker's job."""
        try:
            if job is not None:
                worker.give(job, self.limits.seconds)
            else:
                reply = worker.read_reply()
                if worker.job is not None:
                    results[worker.job.index] = self._execution(*reply)
                    worker.job = None
        except WorkerLostError as error:
            self._drop([worker])
            lost = worker.job
            if lost is not None and lost.attempts < ATTEMPTS:
                pending.appendleft(lost)
            elif lost is not None:
                results[lost.index] = Fault("sandbox", f"{error} ({ATTEMPTS} attempts)")

    def _execution(self, status: str, seconds: float, out: bytes, err: bytes) -> Execution:
        limit = self.limits.output_chars
        stdout, stderr = out.decode("utf-8", "replace"), err.decode("utf-8", "replace")
        return Execution(cast(Status, status), stdout[:limit], stderr[-limit:], seconds)

    def _refill(self, pending: deque[_Job], results: list[Execution | Fault | None]) -> None:
        """Replace lost workers. Where none can be had at all, what is pending becomes faults."""
        try:
            self._fill_pool()
        except (WorkerLostError, OSError) as error:
            if not self._pool:
                while pending:
                    results[pending.popleft().index] = Fault("sandbox", f"no worker starts: {error}")

    def _fill_pool(self) -> None:
        """Start what is missing, all at once. Raises WorkerLostError or OSError."""
        started: list[_Worker] = []
        try:
            while len(self._pool) + len(started) < self.workers:
                started.append(self._spawn())
            for worker in started:
                isolation = json.loads(worker.read_reply()[2])
                worker.isolation = {str(name): bool(value) for name, value in isolation.items()}
                worker.channel.settimeout(GRACE_SECONDS)
        except BaseException:
            for worker in started:
                worker.end(orderly=False)
            raise
        for worker in started:
            self._selector.register(worker.channel, selectors.EVENT_READ, worker)
            self._pool.append(worker)

    def _spawn(self) -> _Worker:
        """Start a zygote in a clean environment. Raises OSError."""
        ours, theirs = socket.socketpair()
        config = {
            **asdict(self.limits),
            "cpu_seconds": self.limits.whole_cpu_seconds,
            "preload": self._preload,
            "unsafe": self._unsafe,
            "channel": theirs.fileno(),
            "owner": os.getpid(),
        }
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
        site = [] if self._preload else ["-S"]
        command = [sys.executable, "-s", "-P", "-B", *site, "-X", "utf8"]
        try:
            process = subprocess.Popen(
                [*command, "-m", "sandbox.zygote", json.dumps(config)],
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
        ours.settimeout(START_SECONDS)
        return _Worker(process, ours)

    def _drop(self, workers: list[_Worker], orderly: bool = False) -> None:
        for worker in workers:
            self._pool.remove(worker)
            self._selector.unregister(worker.channel)
            worker.end(orderly)

"""Sessions of a `LocalSandbox`, seen from our side: one interpreter each, which keeps its state.

A session is a fork of the session server (see `session_server.py`) that we watch ourselves, through a
socket and a pidfd. Between cells it is frozen and has no other process: what a cell leaves running is
killed. Only `run` and `end` of one `Session` exclude each other; `_Process.kill` may come at any time.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, cast, final

from sod.records import Execution, ExecutionStatus, Fault, FaultKind
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.cgroup import Cgroup
from sod.tools.sandbox.confine import SCRATCH
from sod.tools.sandbox.held import children_of, descendants, holds_more
from sod.tools.sandbox.homes import too_full
from sod.tools.sandbox.pool import ATTEMPTS, GRACE_SECONDS, START_SECONDS, ForkServer, ForkServerLostError, spawn
from sod.tools.sandbox.program import EXIT_ERROR
from sod.tools.sandbox.watch import End, Output, status_of, watch, with_note
from sod.tools.sandbox.wire import LENGTH, TOKEN_BYTES

STATE_LOST = "the state of this session is lost"
DYING_SECONDS = 1.0  # from the end of its socket to the end of an interpreter
KILL_ATTEMPTS = 500  # at what a cell left running, before its session is given up


@final
class SessionServer:
    """The fork server that sessions are forks of: started with the first of them, and anew when lost."""

    def __init__(
        self, config: Mapping[str, Any], limits: ProgramLimits, new_cgroup: Callable[[], Cgroup] | None = None
    ) -> None:
        self._new_cgroup = new_cgroup  # for each session; without it we watch its memory
        self._config = {**config, "sessions": True}
        self._limits = {**asdict(limits), "cpu_seconds": limits.whole_cpu_seconds}
        self._limits["watched"] = new_cgroup is None
        self._lock = threading.Lock()
        self._server: ForkServer | None = None
        self._begun = 0
        self.own_namespaces = True

    def begin(self) -> _Process:
        """A new session's process. Raises ForkServerLostError or OSError."""
        with self._lock:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    server = self._server = self._server or self._start()
                    return self._begin(server)
                except (ForkServerLostError, OSError):
                    self._drop()
                    if attempt == ATTEMPTS:
                        raise
            raise AssertionError

    def reap(self, process: _Process) -> int:
        """Have a process reaped that is dead or dying: its exit code. Raises ForkServerLostError where we lost it."""
        with self._lock:
            if self._server is not process.server:  # its parent died before it, and another was started since
                raise ForkServerLostError("the session server was lost")
            try:
                head, _ = process.server.ask({"what": "reap", "pid": process.pid}, (), GRACE_SECONDS)
            except ForkServerLostError:
                self._drop()
                raise
            return int(head["exit_code"])

    def pids(self) -> list[int]:
        """The pid of the process that we started, if it lives; it has descendants."""
        with self._lock:
            return [self._server.process.pid] if self._server is not None else []

    def close(self) -> None:
        """End it, and with it every session. Safe to call twice."""
        with self._lock:
            self._drop(orderly=True)

    def _start(self) -> ForkServer:
        server = spawn(self._config)
        try:
            self.own_namespaces = server.reply(START_SECONDS)[0]["kept"]["pid_namespace"]
        except BaseException:
            server.end(orderly=False)
            raise
        return server

    def _begin(self, server: ForkServer) -> _Process:
        self._begun += 1
        request = {"what": "begin", "number": self._begun, "limits": self._limits}
        head, _ = server.ask(request, (), GRACE_SECONDS)
        _, (control, handle), _, _ = socket.recv_fds(server.channel, 1, 2)
        process = _Process(server, head["pid"], head["home"], socket.socket(fileno=control), handle)
        try:
            process.await_ready(self.own_namespaces)
            if self._new_cgroup is not None:
                process.enter(self._new_cgroup())
        except BaseException:
            process.kill()
            process.close()
            raise
        return process

    def _drop(self, orderly: bool = False) -> None:
        if self._server is not None:
            self._server.end(orderly)
            self._server = None


@final
@dataclass(eq=False)
class _Process:
    """A session's interpreter, and what we hold of it.

    Where there are pid namespaces, the interpreter is pid 1 of its own: whoever kills it kills its session whole.
    Else a subreaper stands above it, to whom orphans come, and each process has to be killed by its pid.
    """

    server: ForkServer  # whose child it is
    pid: int  # as the session server names it
    home: str  # its scratch directory, where no mount bounds that
    control: socket.socket
    handle: int  # pidfd of the interpreter, or of its subreaper
    root: int = 0  # the same process, as we name it
    interpreter: int = 0  # the same as `root`, but where a subreaper stands above
    cgroup: Cgroup | None = None  # of its own, where there are any

    def await_ready(self, own_namespaces: bool) -> None:
        """Wait until it is confined. Raises OSError."""
        self.control.settimeout(GRACE_SECONDS)
        if not self.control.recv(1):
            raise OSError("a session's limits could not be set")
        with open(f"/proc/self/fdinfo/{self.handle}") as file:
            self.root = next(int(line.split()[1]) for line in file if line.startswith("Pid:"))
        self.interpreter = self.root if own_namespaces else children_of(self.root)[0]

    def enter(self, cgroup: Cgroup) -> None:
        """Move the interpreter, which has no other processes yet, to a cgroup of its own. Raises OSError."""
        self.cgroup = cgroup
        cgroup.enter(self.interpreter)

    def over_memory(self, memory_mb: int) -> bool:
        """Whether its processes and files hold, or have held, more than so many MiB together."""
        with suppress(FileNotFoundError):  # it has ended, and its directory is gone
            if self.home and too_full(self.home, memory_mb):
                return True
        if self.cgroup is not None:
            return self.cgroup.kills() > 0
        scratch = f"/proc/{self.interpreter}/root{SCRATCH[0]}" if self.interpreter == self.root else ""
        return holds_more([self.root, *descendants(self.root)], scratch, memory_mb)

    def kill(self) -> None:
        """Kill the interpreter and every other process of the session."""
        if self.interpreter != self.root:  # else its namespace dies with it
            self.signal(signal.SIGSTOP)
            self.kill_others()
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send the interpreter a signal, if it is still there."""
        with suppress(ProcessLookupError):
            if self.interpreter == self.root:
                signal.pidfd_send_signal(self.handle, number)
            else:
                os.kill(self.interpreter, number)

    def kill_others(self) -> bool:
        """Kill every process of the session but the interpreter, which must be frozen; whether it worked.

        Nobody else reaps them (orphans come to a frozen parent), so their pids cannot be another's.
        """
        for _ in range(KILL_ATTEMPTS):
            others = [pid for pid in self._others() if _runs(pid)]
            if not others:
                return True
            for pid in others:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.001)  # they die when they are next scheduled
        return False

    def _others(self) -> list[int]:
        """Children of the interpreter and of the subreaper, dead ones too; their own children come to these in turn."""
        own = {self.root, self.interpreter}
        found = [pid for parent in own for pid in children_of(parent)]
        return [pid for pid in found if pid not in own]

    def wait(self, seconds: float) -> bool:
        """Whether it is dead, or dies in that time."""
        return _readable(self.handle, seconds)

    def cpu_seconds(self) -> float:
        """CPU time of the interpreter so far."""
        try:
            return time.clock_gettime((~self.interpreter << 3) | 2)  # the kernel's name of another's clock
        except OSError:  # gone
            return 0.0

    def close(self) -> None:
        """Give up what we hold of it; it must be dead, or be killed by somebody else."""
        self.control.close()
        os.close(self.handle)
        if self.cgroup is not None:
            self.cgroup.remove()


def _readable(descriptor: int, seconds: float) -> bool:
    """Whether there is something to read from it, or its end, within that time. Descriptors may have any number."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def _runs(pid: int) -> bool:
    """Whether a process is there and more than a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@final
class Session:
    """One conversation's interpreter; there is none before the first cell, and after its state is lost."""

    def __init__(self, server: SessionServer, limits: ProgramLimits) -> None:
        self._server = server
        self._limits = limits
        self._lock = threading.Lock()  # held for a whole cell
        self._guard = threading.Lock()  # held while `_process` is closed, or killed by `end`
        self._ended = threading.Event()
        self._process: _Process | None = None
        self._fault: Fault | None = None

    def run(self, source: str) -> Execution | Fault:
        """Run a cell; see `SessionSandbox.run_cells`."""
        with self._lock:
            if self._ended.is_set():
                return _lost("the session was ended")
            if self._fault is not None:
                return self._fault
            try:
                self._process = self._process or self._server.begin()
            except (ForkServerLostError, OSError) as error:
                return Fault(FaultKind.SANDBOX, f"no session begins: {error}")
            try:
                return self._run(self._process, source)
            except (ForkServerLostError, OSError) as error:
                self._fault = _lost(str(error))
                self._kill_and_reap()
                return self._fault

    def end(self) -> None:
        """Kill the interpreter, at once; a cell that is running becomes a fault."""
        self._ended.set()
        with self._guard:
            if self._process is not None:
                self._process.kill()
        with self._lock:
            self._kill_and_reap()

    def _run(self, process: _Process, source: str) -> Execution | Fault:
        """Run a cell in this interpreter. Raises ForkServerLostError or OSError where we lost the session."""
        begun = time.monotonic()
        out, err, end, code = self._watch(process, source)
        # An interpreter that answered its cell is frozen and stays. Any other is dead, or has to die.
        state_lost = end is not End.DONE
        if state_lost:
            end, code = self._end_interpreter(process, end)
        limits = {**asdict(self._limits), "cpu_seconds": self._limits.whole_cpu_seconds}
        status, exit_code, note = status_of(end, code, limits)
        if state_lost:
            note = f"{note or 'the interpreter ended'}; {STATE_LOST}"
        limit = self._limits.output_chars
        stdout = out.data.decode("utf-8", "replace")[:limit]
        stderr = with_note(err.data, note).decode("utf-8", "replace")[-limit:]
        return Execution(cast(ExecutionStatus, status), stdout, stderr, time.monotonic() - begun, exit_code)

    def _watch(self, process: _Process, source: str) -> tuple[Output, Output, End, int]:
        """Hand over a cell and see it through: what it wrote, how it ended, and where it answered its exit status.

        After `DONE` the interpreter is frozen and the session has no other process.
        """
        limit = self._limits.output_chars
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        try:
            out, err = Output(out_read, limit, tail=False), Output(err_read, limit, tail=True)
            token = os.urandom(TOKEN_BYTES)
            self._hand_over(process, token, source, [out_write, err_write])
            budget = process.cpu_seconds() + self._limits.whole_cpu_seconds
            signs_of_end = (process.control.fileno(), process.handle)
            end = watch(
                signs_of_end,
                (out, err),
                self._limits.seconds,
                cpu_left=lambda: budget - process.cpu_seconds(),
                over_memory=lambda: process.over_memory(self._limits.memory_mb),
            )
            code = EXIT_ERROR
            if end is End.DONE:
                end, code = self._answer(process, token)
            if end is End.DONE:
                # Frozen first: an interpreter that runs could start new processes as fast as we kill them.
                process.signal(signal.SIGSTOP)
                if not process.kill_others():
                    end = End.CROWD
                elif process.over_memory(self._limits.memory_mb):  # and would hold it until the next cell
                    end = End.MEMORY
            while out.read() or err.read():  # what was written last is still in the pipes
                pass
            # Of a cell that ended otherwise we say that, also where its last words were too many.
            if end is End.DONE and out.over:
                end = End.OUTPUT_LIMIT
        finally:
            os.close(out_read)
            os.close(err_read)
        return out, err, end, code

    def _hand_over(self, process: _Process, token: bytes, source: str, outputs: list[int]) -> None:
        """Wake the interpreter; send it the source, and the descriptors to write to, which are then closed here."""
        data = source.encode("utf-8", "surrogatepass")
        try:
            process.signal(signal.SIGCONT)
            socket.send_fds(process.control, [LENGTH.pack(len(data)) + token], outputs)
            process.control.sendall(data)
        except (BrokenPipeError, ConnectionResetError):  # the interpreter is gone: the watch will see that
            pass
        finally:
            for descriptor in outputs:
                os.close(descriptor)

    def _answer(self, process: _Process, token: bytes) -> tuple[End, int]:
        """`DONE` and the exit status that the interpreter answered, else `NO_ANSWER`.

        That is where it ended, closed its socket, or answered what was not asked.
        """
        if not _readable(process.control.fileno(), 0):  # it was its pidfd that ended the watch
            return End.NO_ANSWER, EXIT_ERROR
        try:
            answer = process.control.recv(2 * TOKEN_BYTES)
        except ConnectionResetError:
            return End.NO_ANSWER, EXIT_ERROR
        if answer[:-1] != token:  # nothing (closed), or bytes that the cell wrote to the socket itself
            return End.NO_ANSWER, EXIT_ERROR
        return End.DONE, answer[-1]

    def _end_interpreter(self, process: _Process, end: End) -> tuple[End, int]:
        """Kill and reap an interpreter whose cell came to this `end`: how it really ended, and its exit code.

        Raises ForkServerLostError where somebody else killed it, or its parent is lost.
        """
        # An exit closes the socket a moment before it is done: wait for it, as the exit status says more than we could.
        if end is End.NO_ANSWER and process.wait(DYING_SECONDS):
            end = End.DIED
        process.kill()
        code = self._server.reap(process)
        if process.cgroup is not None and process.over_memory(self._limits.memory_mb):
            end = End.MEMORY  # the kernel killed one of its processes, in this cell or after the last
        self._forget()
        if end is not End.DIED or code != -signal.SIGKILL:
            return end, code
        # It was killed before we did: by `end`, by somebody outside, or by the cell. The cell cannot have done it where
        # the interpreter is pid 1 of a namespace, which nobody within can kill; without one, we take it for the cell's.
        if self._ended.is_set() or self._server.own_namespaces:
            raise ForkServerLostError("its interpreter was killed from outside")
        return end, code

    def _kill_and_reap(self) -> None:
        if self._process is not None:
            self._process.kill()
            with suppress(ForkServerLostError):  # then it died with the session server
                self._server.reap(self._process)
            self._forget()

    def _forget(self) -> None:
        with self._guard:
            if self._process is not None:
                self._process.close()
                self._process = None


def _lost(detail: str) -> Fault:
    return Fault(FaultKind.SESSION, detail, retryable=False)

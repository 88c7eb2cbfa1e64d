"""The fork server for sessions: one fork each, which then talks to `LocalSandbox` directly.

Part of the fork server (see `fork_server.py`): standard library only.

    LocalSandbox -- monitor (waits for its child and ends with it)
                      `- session server, pid 1 of namespace A (begins and reaps sessions)
                           `- session, pid 1 of namespace B: one interpreter, a socket to LocalSandbox

Without pid namespaces a subreaper stands between session server and session: orphans of the session's
processes become its children. A session answers every cell with the cell's token and one byte, its exit
status. The model's code runs in the same process and may forge that answer, as everything else that a
session writes: by it, it can misreport the status of its own cells or end its own session, no more.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import socket
from contextlib import suppress
from typing import Any, NoReturn

from .confine import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_PDEATHSIG,
    drop_capabilities,
    enter_session,
    fresh_scratch,
    new_pid_namespace,
    prctl,
)
from .files import empty_directory
from .held import DESCRIPTORS
from .layers import REHEARSALS, apply
from .program import (
    EXIT_ERROR,
    compiled,
    finish,
    flush,
    fresh_main,
    remember,
    report,
    seed_random,
    set_limit,
    set_memory_limits,
)
from .startup import ForkServerState, receive, send
from .watch import kill_children, reap
from .wire import LENGTH, TOKEN_BYTES, pack, unpack

CONTROL = 255  # the highest descriptor there may be: programs that count from 3 do not find it
READY = b"\xff"


def serve(state: ForkServerState) -> NoReturn:
    """Begin and reap sessions until LocalSandbox goes away."""
    sessions: dict[int, str] = {}  # pid: the home to be removed, where it is no mount of its own
    channel = socket.socket(fileno=os.dup(state.channel))
    rehearse()
    while True:
        head, _ = unpack(lambda length: receive(state, length))
        if head["what"] == "begin":
            home = "" if state.isolation.scratch else os.path.join(os.environ["HOME"], str(head["number"]))
            ours, theirs = socket.socketpair()
            pid = begin(state, head["limits"], ours, theirs, home, len(sessions))
            sessions[pid] = home
            handle = os.pidfd_open(pid)  # by which LocalSandbox watches and kills it: its pid means nothing there
            send(state.channel, pack({"status": "begun", "pid": pid, "home": home}))
            socket.send_fds(channel, [b"\0"], [ours.fileno(), handle])
            os.close(handle)
            ours.close()
            theirs.close()
        else:  # "reap": LocalSandbox has killed it, or seen it die
            code, _ = reap(head["pid"])
            if home := sessions.pop(head["pid"]):
                empty_directory(home)
                os.rmdir(home)
            if state.own_namespace < 0:
                kill_children(but=sessions)  # orphans that a session's subreaper did not live to kill
            send(state.channel, pack({"status": "reaped", "exit_code": code}))


def rehearse() -> None:
    """Run trivial cells in this process, as every session will.

    What Python writes at the first runs of its code is then in pages that all sessions share, not in copies of each.
    """
    ours, theirs = socket.socketpair()
    null = os.open("/dev/null", os.O_WRONLY)
    for _ in range(REHEARSALS):
        socket.send_fds(ours, [LENGTH.pack(1) + bytes(TOKEN_BYTES) + b"1"], [null])
        _, source, (handle,) = next_cell(theirs) or (b"", "", [])
        os.close(handle)
        run_cell(source, fresh_main(), "<cell 1>")
        flush()
    ours.close()
    theirs.close()
    os.close(null)
    gc.collect()
    gc.freeze()


def begin(
    state: ForkServerState,
    limits: dict[str, Any],
    ours: socket.socket,
    theirs: socket.socket,
    home: str,
    others: int,
) -> int:
    """Fork a session, or its subreaper, and return its pid. `others`: sessions that live already."""
    if state.own_namespace >= 0:
        new_pid_namespace(state.own_namespace)
    if (pid := thin_fork()) != 0:
        return pid
    try:
        ours.close()
        if state.own_namespace < 0:
            fork_under_subreaper()
        if home:
            os.mkdir(home, 0o700)
        confine(state, limits, theirs.detach(), home, others)
        run_cells(socket.socket(fileno=CONTROL))
    except BaseException as error:
        with suppress(OSError):  # stderr is /dev/null, but for a person at a debugger
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(EXIT_ERROR)


def thin_fork() -> int:
    """Fork without the work that Python does after `os.fork`, which writes to, and so copies, 1 MB of pages.

    In a process of one thread that work changes nothing but the seed of `random` (see `seed_random`); a process of
    several threads is forked with `os.fork`.
    """
    if len(os.listdir("/proc/self/task")) > 1:  # some preloaded module began a thread
        return os.fork()
    pid = int(ctypes.PyDLL(None, use_errno=True).fork())
    if pid < 0:
        raise OSError(ctypes.get_errno(), "fork")
    return pid


def fork_under_subreaper() -> None:
    """Fork again and return in the fork; the original waits for it, kills the orphans it leaves, and ends as it ended.

    So whoever watches the original sees the fork's exit status.
    """
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if (pid := os.fork()) == 0:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        return
    os.closerange(3, 256)
    code, _ = reap(pid)
    kill_children()
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)


def confine(state: ForkServerState, limits: dict[str, Any], control: int, home: str, others: int) -> None:
    """Set namespaces, descriptors, limits and privileges of a session, in its fork."""
    os.setsid()
    scratch = state.isolation.scratch
    if state.own_namespace >= 0:
        enter_session(state.isolation)
    if scratch:
        fresh_scratch(scratch, limits["memory_mb"])
    if home:
        os.environ.update(HOME=home, TMPDIR=home)
    os.dup2(control, CONTROL, inheritable=False)
    set_memory_limits(limits["memory_mb"], state.mapped)
    if limits["watched"]:
        set_limit(resource.RLIMIT_NOFILE, DESCRIPTORS)
    if state.own_namespace >= 0:
        set_limit(resource.RLIMIT_NPROC, limits["processes"])
        drop_capabilities()
    else:  # the kernel counts the other sessions too, each with its subreaper
        set_limit(resource.RLIMIT_NPROC, state.processes + 2 * others + 2 + limits["processes"])
    os.chdir(os.environ["HOME"])
    apply(state.layers, scratch or [home])
    os.closerange(3, CONTROL)


def run_cells(control: socket.socket) -> None:
    """Serve the session's cells until its socket closes."""
    seed_random()
    names = fresh_main()
    itself = os.getpid()
    control.sendall(READY)
    number = 0
    while True:
        number += 1
        if (cell := next_cell(control)) is None:
            return
        token, source, outputs = cell
        for target, descriptor in enumerate(outputs, start=1):
            os.dup2(descriptor, target)
            os.close(descriptor)
        status = run_cell(source, names, f"<cell {number}>")
        flush()
        if os.getpid() != itself:  # a fork that the cell made and that came this far: its end, as in a script
            os._exit(finish(status, names))
        control.sendall(token + bytes([status]))


def next_cell(control: socket.socket) -> tuple[bytes, str, list[int]] | None:
    """The next cell: its token, its source, and the descriptors it may write to. None where the socket was closed."""
    data, descriptors, _, _ = socket.recv_fds(control, LENGTH.size + TOKEN_BYTES, 2)
    if not data:
        return None
    (length,) = LENGTH.unpack_from(data)
    source = bytearray()
    while len(source) < length:
        source += control.recv(length - len(source))
    with suppress(ChildProcessError):  # what was killed after the last cell still counts as a process
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return data[LENGTH.size :], source.decode("utf-8", "surrogatepass"), descriptors


def run_cell(source: str, names: dict[str, Any], filename: str) -> int:
    """Run one cell and return its exit status. Where the cell ends the interpreter, does not return."""
    remember(source, filename)  # for good: a later traceback may pass through it
    try:
        exec(compiled(source, filename), names)
    except (SystemExit, MemoryError) as error:
        os._exit(finish(report(error, source, filename), names))
    except BaseException as error:
        return report(error, source, filename)
    return 0

"""The warm process behind `LocalSandbox`: forks itself once per program, confines and watches the fork.

Runs as `-m sandbox.fork_server` in an interpreter of its own and imports only its neighbours here that
need the standard library alone (so `sandbox/__init__.py` must stay free of imports): forks of a
small process are cheap, and what every program does first is warmed up here once. The processes of
one worker:

    LocalSandbox -- monitor (waits for its child and ends with it)
                      `- fork server, pid 1 of namespace A (this file's loop; one program at a time)
                           `- program, pid 1 of namespace B, new for every call

Killing pid 1 kills its namespace whole, so nothing a program starts outlives the call, and nothing
at all outlives the fork server. A program cannot name the fork server (other pid namespace), and what
it writes is only ever handled as bytes.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from . import session_server
from .confine import NEWIPC, drop_capabilities, fresh_scratch, new_pid_namespace, unshare
from .files import empty_directory, fetch, place
from .held import DESCRIPTORS, descendants, holds_more
from .homes import too_full
from .layers import apply
from .program import EXIT_ERROR, EXIT_MEMORY, add_site_builtins, run_main, seed_random, set_limit, set_memory_limits
from .startup import ForkServerState, leave, receive, send, start
from .watch import End, Output, kill_and_reap, status_of, watch, with_note
from .wire import pack, unpack


def confine(state: ForkServerState, limits: dict[str, Any], stdin: bytes, out: int, err: int) -> None:
    """Set descriptors, limits and privileges of a program, in its fork. What follows is the model's doing."""
    os.setsid()
    if stdin:
        handle = os.memfd_create("stdin")
        with open(handle, "wb", closefd=False) as file:
            file.write(stdin)
        os.lseek(handle, 0, os.SEEK_SET)
        os.dup2(handle, 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    set_memory_limits(limits["memory_mb"], state.mapped)
    if state.cgroup is None:
        set_limit(resource.RLIMIT_NOFILE, DESCRIPTORS)
    else:
        state.cgroup.enter()
    set_limit(resource.RLIMIT_CPU, limits["cpu_seconds"])
    set_limit(resource.RLIMIT_NPROC, state.processes + limits["processes"])
    if state.own_namespace >= 0:
        drop_capabilities()
    os.chdir(os.environ["HOME"])
    apply(state.layers, state.isolation.scratch or [os.environ["HOME"]])
    os.eventfd_write(state.started, 1)
    os.closerange(3, 256)


def become_program(
    state: ForkServerState, limits: dict[str, Any], source: bytes, stdin: bytes, out: int, err: int
) -> NoReturn:
    """In the fork: confine this process, run the source, exit."""
    status = EXIT_ERROR
    try:
        confine(state, limits, stdin, out, err)
        seed_random()
        status = run_main(source.decode("utf-8", "surrogatepass"))
    except MemoryError:
        status = EXIT_MEMORY
    finally:
        os._exit(status)


def execute(state: ForkServerState, head: dict[str, Any], blobs: list[bytes]) -> bytes:
    """Run one program in a fork; the frame of its reply. Raises OSError for failures of ours."""
    source, stdin, *contents = blobs
    limits = head["limits"]
    home = os.environ["HOME"]
    if state.isolation.scratch:
        fresh_scratch(state.isolation.scratch, limits["memory_mb"])
    else:
        empty_directory(home)
    if state.cgroup is not None:
        state.cgroup.set_limit(limits["memory_mb"])
    place(home, dict(zip(head["files"], contents, strict=True)))
    begun = time.monotonic()
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    if state.own_namespace >= 0:
        new_pid_namespace(state.own_namespace)
        if state.layers.seccomp is None:  # else it is refused the SysV segments that would outlive it
            unshare(NEWIPC)
    if (pid := os.fork()) == 0:
        become_program(state, limits, source, stdin, out_write, err_write)
    os.close(out_write)
    os.close(err_write)
    out = Output(out_read, limits["output_chars"], tail=False)
    err = Output(err_read, limits["output_chars"], tail=True)
    end, code = watch_and_reap(state, pid, limits, out, err)
    os.close(out_read)
    os.close(err_read)
    try:
        os.eventfd_read(state.started)
    except BlockingIOError:  # it ended before the model's source began
        if not select.select([state.channel], [], [], 0)[0]:  # else we have ended it: it was called off
            raise OSError("a program's limits could not be set") from None
    status, exit_code, note = status_of(end, code, limits)
    if status == "error" and not note and not err.data:
        note = "process exited with status 1"
    seconds = time.monotonic() - begun
    found = fetch(home, head["fetch"])
    reply = {"status": status, "exit_code": exit_code, "seconds": seconds, "files": list(found)}
    return pack(reply, [out.data, with_note(err.data, note), *found.values()])


def watch_and_reap(
    state: ForkServerState, pid: int, limits: dict[str, Any], out: Output, err: Output
) -> tuple[End, int]:
    """Watch a program and kill what is left of it: how it ended, and its exit code (negative: a signal).

    Ends this process when LocalSandbox is gone.
    """
    program = os.pidfd_open(pid)
    poller = select.poll()
    poller.register(state.owner, select.POLLIN)
    poller.register(state.channel, 0)  # hang-up only
    over_memory = memory_watch(state, limits["memory_mb"])
    try:
        end = watch((program, state.owner, state.channel), (out, err), limits["seconds"], over_memory=over_memory)
    finally:
        os.close(program)
    code, cpu_seconds = kill_and_reap(pid, state.own_namespace < 0, limits["cpu_seconds"])
    if poller.poll(0):  # it was not the program that ended the watch, or LocalSandbox went away meanwhile
        leave(state)
    while out.read() or err.read():  # what it wrote last is still in the pipes
        pass
    if over_memory():  # it, or the kernel, may have been faster than the watch
        return End.MEMORY, code
    if out.over:
        return End.OUTPUT_LIMIT, code
    if end is End.DONE and code == -signal.SIGXCPU and cpu_seconds >= limits["cpu_seconds"] / 2:
        return End.CPU, code
    return end, code


def memory_watch(state: ForkServerState, memory_mb: int) -> Callable[[], bool]:
    """A function that tells whether the program now beginning has held more than it may, all its processes together."""
    memory = program_memory(state, memory_mb)
    if state.isolation.scratch:
        return memory
    home = os.environ["HOME"]
    return lambda: memory() or too_full(home, memory_mb)  # no mount bounds its files


def program_memory(state: ForkServerState, memory_mb: int) -> Callable[[], bool]:
    """As `memory_watch`, where a mount bounds the program's files."""
    if (cgroup := state.cgroup) is not None:
        before = cgroup.kills()
        return lambda: cgroup.kills() > before
    itself = int(os.readlink("/proc/self"))  # as this /proc names us; it may be the machine's
    scratch = state.isolation.scratch[0] if state.isolation.scratch else ""
    return lambda: holds_more(descendants(itself), scratch, memory_mb)


def lowest(descriptor: int) -> int:
    """Give a descriptor that we inherited the lowest free number: it had one of LocalSandbox's, which may have many.

    Programs close all up to a number (see `confine`).
    """
    lower = os.dup(descriptor)
    os.close(descriptor)
    return lower


def main() -> None:
    """Serve programs until LocalSandbox goes away. A failure of ours is told, then ends this process."""
    config = json.loads(sys.argv[1])
    config["channel"] = lowest(config["channel"])
    config["cgroup"] = [lowest(descriptor) for descriptor in config["cgroup"]]
    sys.argv[:] = sys.orig_argv[:] = ["program.py"]
    sys.path.remove(os.environ.pop("PYTHONPATH"))
    del os.environ["LD_BIND_NOW"]
    try:
        state = start(config)
        sys.path.insert(0, "")  # a program may import what it wrote
        add_site_builtins()
        about = {"level": state.level, "kept": state.kept, "problem": state.isolation.problem}
        send(state.channel, pack({"status": "ready", **about, "missing": config["missing"]}))
        if config["sessions"]:
            session_server.serve(state)
        while True:
            head, blobs = unpack(lambda length: receive(state, length))
            if head.get("what") != "stop":  # else the program that it was sent for has just ended by itself
                send(state.channel, execute(state, head, blobs))
    except Exception as error:
        send(config["channel"], pack({"status": "fault", "detail": f"{type(error).__name__}: {error}"}))
        sys.exit(1)


if __name__ == "__main__":
    main()

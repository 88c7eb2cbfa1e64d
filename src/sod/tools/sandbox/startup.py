"""The start of a fork server: isolated, its imports done, ready to be forked; and its channel to LocalSandbox.

Part of the fork server (see `fork_server.py`): standard library only.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, final

from .confine import FIRST_UID, PR_SET_DUMPABLE, Isolation, isolate, prctl, python_paths
from .files import empty_directory
from .held import CgroupFiles
from .homes import make_home, remove_lost_homes
from .layers import Layers, load_landlock, prepare, proven
from .program import FILENAME, set_limit
from .watch import kill_children

SLACK = 64  # processes that a user who is not ours alone may begin while programs run


@final
@dataclass
class ForkServerState:
    """What a fork server's loop needs to know, fixed at its start."""

    channel: int  # socket to LocalSandbox
    owner: int  # pidfd of the process of LocalSandbox
    started: int  # eventfd by which a fork says that its limits stand
    own_namespace: int  # this process's pid namespace, -1 without namespaces
    isolation: Isolation
    layers: Layers
    level: str  # full, reduced or unsafe
    kept: dict[str, bool]  # what is kept from programs, by whatever means
    mapped: int  # address space of this process (bytes)
    cgroup: CgroupFiles | None  # that programs are to enter, where there is one
    processes: int  # that the kernel counts together with a program's own


def start(config: dict[str, Any]) -> ForkServerState:
    """Isolate this process, warm it up, and gather what its loop needs.

    Raises OSError where the isolation is not to be had and `unsafe` is not set.
    """
    owner = os.pidfd_open(config["owner"])
    landlock = load_landlock(config)
    remove_lost_homes(FIRST_UID)
    paths = python_paths(config["preload"])
    isolation = isolate(config["sessions"], paths)
    layers = prepare(config, landlock, all(isolation.obtained.values()), paths)
    layers = proven(layers, config["missing"])
    level, kept = level_of(isolation, layers)
    if level == "unsafe" and not config["unsafe"]:
        raise OSError(refusal(isolation, kept, config["missing"]))
    home = isolation.scratch[0] if isolation.scratch else make_home()
    os.environ.update(HOME=home, TMPDIR=home)
    own = os.open("/proc/self/ns/pid", os.O_RDONLY) if isolation.obtained["pid_namespace"] else -1
    warm_up(config["preload"])
    started = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    set_limit(resource.RLIMIT_NOFILE, 256)  # forks inherit these at no cost
    set_limit(resource.RLIMIT_CORE, 0)
    if own >= 0:
        prctl(PR_SET_DUMPABLE, 0)
    cgroup = CgroupFiles(*config["cgroup"]) if config["cgroup"] else None
    processes = 2 if own >= 0 else processes_of_user()  # monitor and fork server
    return ForkServerState(
        config["channel"], owner, started, own, isolation, layers, level, kept, mapped_bytes(), cgroup, processes
    )


def level_of(isolation: Isolation, layers: Layers) -> tuple[str, dict[str, bool]]:
    """The level of isolation, and what is kept from programs, by whatever means."""
    got = isolation.obtained
    seccomp, landlock = layers.seccomp is not None, layers.landlock is not None
    kept = {
        "unprivileged": got["unprivileged"],
        "network": got["network"] or seccomp,
        "pid_namespace": got["pid_namespace"],
        "filesystem": got["filesystem"] or landlock,
        "seccomp": seccomp,
        "landlock": landlock,
    }
    if all(got.values()):
        return "full", kept
    # Without namespaces it takes both layers: seccomp for the network, Landlock for the files.
    return ("reduced" if got["unprivileged"] and seccomp and landlock else "unsafe"), kept


def refusal(isolation: Isolation, kept: dict[str, bool], missing: dict[str, str]) -> str:
    """One line: what is missing, why, and the fix."""
    lost = ", ".join(name for name in ("unprivileged", "network", "pid_namespace", "filesystem") if not kept[name])
    reasons = "; ".join([isolation.problem, *missing.values()])
    fix = "allow user namespaces, or install `landlock` and `pyseccomp`, or set `unsafe` if you trust the programs"
    return f"no isolation of: {lost} ({reasons}); {fix}"


def mapped_bytes() -> int:
    """Address space of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def processes_of_user() -> int:
    """Processes and threads that run as this process's user, everywhere on the machine.

    Without namespaces the kernel's limit of processes counts them all.
    """
    count = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # gone by now
            if os.stat(f"/proc/{name}").st_uid == os.geteuid():
                count += len(os.listdir(f"/proc/{name}/task"))
    # A uid from FIRST_UID on is this process's own. Any other is shared, and its count may grow while programs run.
    return count if os.geteuid() >= FIRST_UID else count + SLACK


def warm_up(preload: list[str]) -> None:
    """Import `preload`, and compile, print and format a traceback once: forks then need not do it each for itself."""
    for name in preload:
        __import__(name)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a killed program keeps its lines
    try:
        exec(compile("def f(x):\n  return 1 / x\nprint([f(0) for _ in 'a'])", FILENAME, "exec"), {})
    except ZeroDivisionError:
        traceback.format_exc()
    print(end="")
    gc.collect()
    gc.freeze()  # the collector must not touch, and so copy, the shared pages in every fork


def receive(state: ForkServerState, length: int) -> bytes:
    """The next `length` bytes from LocalSandbox. Ends this process when LocalSandbox is gone."""
    data = bytearray()
    poller = select.poll()
    poller.register(state.channel, select.POLLIN)
    poller.register(state.owner, select.POLLIN)
    while len(data) < length:
        ready = dict(poller.poll())
        # The channel's end may be held open by a fork of our owner: the owner's own end counts too, but only once
        # everything that it sent has been read.
        chunk = os.read(state.channel, length - len(data)) if state.channel in ready else b""
        if not chunk:
            leave(state)
        data += chunk
    return bytes(data)


def leave(state: ForkServerState) -> NoReturn:
    """End this process, its children and its scratch directory."""
    if state.own_namespace < 0:  # else they die with this process
        kill_children()
    if not state.isolation.scratch:
        empty_directory(os.environ["HOME"])
        os.rmdir(os.environ["HOME"])
    os._exit(0)


def send(channel: int, data: bytes) -> None:
    """Write all of `data`; waits where the channel is full."""
    view = memoryview(data)
    while view:
        view = view[os.write(channel, view) :]

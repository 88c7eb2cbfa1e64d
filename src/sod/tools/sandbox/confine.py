"""What a fork server gives up before it runs the model's programs: root, network, files, other processes.

Part of the fork server (see `fork_server.py`): standard library only. What stands above the line runs
once per fork server, what stands below it for every program or session. It uses ctypes because
`os.unshare` and `mount` are not in Python 3.11. Linux 5.12 or newer.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import stat
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import final

from .mounts import (
    MS_BIND,
    MS_NODEV,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    bind,
    checked,
    libc,
    mount,
)
from .new_root import BASE, OLD, furnish

SCRATCH = ("/tmp", "/var/tmp", "/dev/shm")  # a program may write here, and only here
# Of an installation of Python. The rest of its directory may be anything: a home, a project with its runs.
INSTALLED = ("bin", "lib", "lib32", "lib64", "libexec", "share", "ssl", "pyvenv.cfg")
PACKAGES = ("site-packages", "dist-packages")
FIRST_UID = 1_500_000_000  # far from real users; see `drop_root`
NOBODY = 65534

NEWNS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MNT_DETACH, MOUNT_SETATTR, OPEN_TREE, AT_FDCWD, AT_RECURSIVE = 2, 442, 428, -100, 0x8000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
CAPABILITY_VERSION_3 = 0x20080522

capset = libc.capset  # looked up here once, not in every fork
no_capabilities = (ctypes.create_string_buffer(struct.pack("=Ii", CAPABILITY_VERSION_3, 0)), bytes(24))


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process. Raises OSError."""
    checked(libc.prctl(option, value, 0, 0, 0), f"prctl {option}")


def unshare(flags: int) -> None:
    """Enter new namespaces; with NEWPID, it is the next fork that does. Raises OSError."""
    checked(libc.unshare(flags), "unshare")


def make_read_only() -> None:
    """Make every mount of this namespace read-only, in one call. Raises OSError."""
    attributes = ctypes.create_string_buffer(struct.pack("=QQQQ", MS_RDONLY | MS_NOSUID, 0, 0, 0))
    call = (AT_FDCWD, b"/", AT_RECURSIVE, attributes, ctypes.c_size_t(32))
    checked(libc.syscall(MOUNT_SETATTR, *call), "mount_setattr")


def outermost(paths: Sequence[str]) -> list[str]:
    """These paths as absolute ones, sorted, without those that lie below another one or are not there."""
    there = {os.path.abspath(path) for path in paths if os.path.exists(path)}
    below = tuple(path.rstrip("/") + "/" for path in there)
    return sorted(path for path in there if not path.startswith(below))


def python_paths(preload: Sequence[str] = ()) -> list[str]:
    """What programs need of Python, sorted, without those that lie below another one: files and directories.

    The installation, the directories of installed packages, and the modules `preload`, wherever they are. A directory
    that a .pth file adds (an editable install) is not among them: it may be a project's root with its runs and data.
    """
    prefixes = (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)
    wanted = [os.path.join(prefix, name) for prefix in prefixes for name in INSTALLED]
    wanted += [path for path in sys.path if os.path.basename(path) in PACKAGES]
    for name in preload:
        wanted += module_files(name.partition(".")[0])
    return outermost(wanted)


def module_files(name: str) -> list[str]:
    """Where a module of the top level is: the directories of a package, or its file. Nothing where it is not found."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    return list(spec.submodule_search_locations or [spec.origin or ""])


def closed_ancestor(path: str) -> str | None:
    """The outermost directory on the way to `path`, or `path` itself, that other users may not enter or read."""
    parts = path.split("/")
    for depth in range(2, len(parts) + 1):
        ancestor = "/".join(parts[:depth])
        if not open_to_others(os.stat(ancestor).st_mode):
            return ancestor
    return None


def open_to_others(mode: int) -> bool:
    """Whether users without a right of their own may enter the directory, or read the file."""
    return bool(mode & (0o001 if stat.S_ISDIR(mode) else 0o004))


def open_the_way(paths: Sequence[str] = ()) -> None:
    """As root: make Python's directories reachable for other users, where they lie below a private one such as /root.

    In a mount namespace of our own, the private directory is replaced by an empty one that holds
    the needed directories and `paths` only. Raises OSError.
    """
    closed: dict[str, list[str]] = {}  # private directory: what is needed below it
    wanted = [sys.prefix, sys.base_prefix, *filter(os.path.isdir, sys.path), *paths]
    for path in outermost([*wanted, *map(os.path.realpath, wanted)]):  # a link may lead into a private one
        if (ancestor := closed_ancestor(path)) is not None:
            closed.setdefault(ancestor, []).append(path)
    if not closed:
        return
    unshare(NEWNS)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    for ancestor, needed in closed.items():
        # Held open from before the new mount hides them: that is where they are bound from.
        handles = [os.open(path, os.O_PATH) for path in needed]
        if not stat.S_ISDIR(os.stat(ancestor).st_mode):
            continue  # a file that others may not read stays so
        mount("tmpfs", ancestor, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
        for path, handle in zip(needed, handles, strict=True):
            open_one(path, handle)
            os.close(handle)


def open_one(path: str, handle: int) -> None:
    """Show what the descriptor stands for at `path`, in a directory that is now hidden. Raises OSError."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    source = f"/proc/self/fd/{handle}"
    if open_to_others(os.fstat(handle).st_mode):
        bind(source, path)
        return
    os.makedirs(path, exist_ok=True)  # closed itself: what is in it, in an open directory of the same name
    for name in os.listdir(source):
        bind(f"{source}/{name}", f"{path}/{name}")


def drop_root(paths: Sequence[str]) -> bool:
    """Become an unprivileged user; whether that is what we are now.

    The uid is this process's own, so that process counts and signals are apart from everybody else's;
    where only part of the uids exist (rootless containers) it is nobody's. A process that may not drop
    root, or could then not read Python (`paths`), stays root.
    """
    if os.geteuid() != 0:
        return True
    with suppress(OSError):
        open_the_way(paths)
    if any(closed_ancestor(path) for path in (*paths, *map(os.path.realpath, paths))):
        return False
    for uid in (FIRST_UID + os.getpid(), NOBODY):
        with suppress(OSError):
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            return True
    return False


def enter_namespaces(flags: int, proc: int | None = None) -> None:
    """Enter new namespaces, a user namespace among them. Raises OSError.

    `proc`: a descriptor of a writable /proc, where /proc itself is read-only.
    """
    uid, gid = os.geteuid(), os.getegid()
    prctl(PR_SET_DUMPABLE, 1)  # else /proc/self belongs to root after the drop
    unshare(NEWUSER | flags)
    for name, text in (("setgroups", "deny"), ("uid_map", f"1000 {uid} 1"), ("gid_map", f"1000 {gid} 1")):
        write_proc(f"self/{name}", text, proc)


def write_proc(name: str, text: str, proc: int | None = None) -> None:
    """Write a file of /proc, or of the /proc that the descriptor `proc` stands for. Raises OSError."""
    handle = os.open(name if proc is not None else f"/proc/{name}", os.O_WRONLY, dir_fd=proc)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def writable_proc() -> int:
    """A descriptor of a copy of /proc's mount that is in no directory: no program can reach it. Raises OSError."""
    handle = libc.syscall(OPEN_TREE, AT_FDCWD, b"/proc", 1 | os.O_CLOEXEC | AT_RECURSIVE)
    checked(handle, "open_tree")
    return int(handle)


def close_filesystem(isolation: Isolation, sessions: bool, paths: Sequence[str]) -> None:
    """Change to a root of our own that holds nothing but the system's and Python's files, all of it read-only.

    Raises OSError. `fresh_scratch` mounts the scratch directories later. `sessions`, `paths`: as in `isolate`.
    """
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", BASE, "tmpfs", MS_NOSUID, "size=16m,nr_inodes=4096,mode=755")
    os.mkdir(BASE + OLD)
    checked(libc.pivot_root(BASE.encode(), (BASE + OLD).encode()), "pivot_root")
    os.chdir("/")
    isolation.scratch = furnish(paths, SCRATCH)
    if sessions:  # each makes namespaces of its own, and forbids them after that
        isolation.proc = writable_proc()
    else:
        forbid_namespaces()
    checked(libc.umount2(OLD.encode(), MNT_DETACH), "umount")
    os.rmdir(OLD)
    make_read_only()
    if os.path.exists(OLD):
        raise OSError("the machine's files could not be taken away")


def forbid_namespaces(proc: int | None = None) -> None:
    """Allow no further user namespaces: in one of its own a program would have capabilities.

    `proc`: as in `enter_namespaces`.
    """
    with suppress(OSError):  # where /proc/sys is masked; seccomp refuses them too
        write_proc("sys/user/max_user_namespaces", "0", proc)


@final
@dataclass
class Isolation:
    """What a fork server obtained. `problem` is why the first missing thing could not be had."""

    obtained: dict[str, bool] = field(
        default_factory=lambda: dict.fromkeys(("unprivileged", "network", "pid_namespace", "filesystem"), False)
    )
    scratch: tuple[str, ...] = ()  # directories to hide under a fresh tmpfs before every program
    proc: int = -1  # descriptor of a writable /proc, where sessions are to be begun
    problem: str = ""


def isolate(sessions: bool, paths: Sequence[str]) -> Isolation:
    """Give up root, network, other processes and files, as far as this machine permits, and tell what was obtained.

    Each step makes the next one possible; one that is refused is the last. `sessions`: forks of this
    process will need namespaces of their own (see `enter_session`). `paths`: what programs need of Python.
    Where pid namespaces exist, returns in a fork of the caller, which stays behind as its monitor.
    """
    isolation = Isolation()
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")  # when memory runs out, rather us than the training process
    try:
        isolation.obtained["unprivileged"] = drop_root(paths)
        enter_namespaces(NEWNET | NEWIPC | NEWNS | NEWPID)
        isolation.obtained["network"] = True
        fork_under_monitor()
        isolation.obtained["pid_namespace"] = True
        close_filesystem(isolation, sessions, paths)
        isolation.obtained["filesystem"] = bool(isolation.scratch)
    except OSError as error:
        isolation.problem = str(error)
    if not isolation.obtained["unprivileged"]:
        isolation.problem = isolation.problem or "an unprivileged user could not read Python's own files"
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    return isolation


def fork_under_monitor() -> None:
    """Fork into the new pid namespace and return there; the original process, the monitor, ends with the fork.

    A process does not enter its new pid namespace itself, only its children do. The monitor is the process
    that LocalSandbox started and waits for.
    """
    if (pid := os.fork()) != 0:
        os.closerange(3, 256)
        os.waitpid(pid, 0)
        os._exit(0)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()


# --- for every program ----------------------------------------------------------------------------


def fresh_scratch(scratch: tuple[str, ...], memory_mb: int) -> None:
    """Put an empty tmpfs (one for all scratch directories) in the place of the last program's files. Raises OSError."""
    for directory in scratch:
        libc.umount2(directory.encode(), MNT_DETACH)  # fails the first time: nothing mounted yet
    options = f"size={memory_mb}m,nr_inodes=4096,mode=700"
    mount("tmpfs", scratch[0], "tmpfs", MS_NOSUID | MS_NODEV, options)
    for directory in scratch[1:]:
        mount(scratch[0], directory, None, MS_BIND)


def new_pid_namespace(own: int) -> None:
    """Let the next fork be pid 1 of a new namespace. Raises OSError.

    `own`: descriptor of the fork server's namespace. After the last fork this process is still set to that one's
    namespace, which may be dead: a new one can be made from its own only.
    """
    checked(libc.setns(own, NEWPID), "setns")
    unshare(NEWPID)


def enter_session(isolation: Isolation) -> None:
    """In the fork that becomes a session: enter user, mount and IPC namespaces of its own. Raises OSError.

    Process counts are kept per user and user namespace: so one session cannot use up another's.
    """
    enter_namespaces(NEWNS | NEWIPC, isolation.proc)
    forbid_namespaces(isolation.proc)


def drop_capabilities() -> None:
    """In a program: give up the capabilities that the user namespace gave. Raises OSError."""
    checked(capset(*no_capabilities), "capset")
    prctl(PR_SET_DUMPABLE, 1)  # the fork server is closed to ptrace; its fork may look at itself

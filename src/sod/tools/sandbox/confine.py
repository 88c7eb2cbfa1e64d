"""What a fork server gives up before it runs the model's programs: root, network, files, other processes.

Part of the fork server (see `fork_server.py`): standard library only. What stands above the line runs
once per fork server, what stands below it for every program or session. It uses ctypes because
`os.unshare` and `mount` are not in Python 3.11. Linux 5.12 or newer.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import final

SCRATCH = ("/tmp", "/var/tmp", "/dev/shm")  # a program may write here, and only here
HIDDEN = ("/run",)  # sockets of the host's services
FIRST_UID = 1_500_000_000  # far from real users; see `drop_root`
NOBODY = 65534

NEWNS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 0x1000, 0x4000, 0x40000
MNT_DETACH, MOUNT_SETATTR, OPEN_TREE, AT_FDCWD, AT_RECURSIVE = 2, 442, 428, -100, 0x8000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
CAPABILITY_VERSION_3 = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)
no_capabilities = (ctypes.create_string_buffer(struct.pack("=Ii", CAPABILITY_VERSION_3, 0)), bytes(24))


def checked(result: int, what: str) -> None:
    """Raise OSError when a C call failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process. Raises OSError."""
    checked(libc.prctl(option, value, 0, 0, 0), f"prctl {option}")


def unshare(flags: int) -> None:
    """Enter new namespaces; with NEWPID, it is the next fork that does. Raises OSError."""
    checked(libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount a file system, or change a mount, as mount(2). Raises OSError."""
    arguments = (source.encode(), target.encode(), kind.encode() if kind else None)
    checked(libc.mount(*arguments, ctypes.c_ulong(flags), options.encode()), f"mount {target}")


def make_read_only() -> None:
    """Make every mount of this namespace read-only, in one call. Raises OSError."""
    attributes = ctypes.create_string_buffer(struct.pack("=QQQQ", MS_RDONLY | MS_NOSUID, 0, 0, 0))
    call = (AT_FDCWD, b"/", AT_RECURSIVE, attributes, ctypes.c_size_t(32))
    checked(libc.syscall(MOUNT_SETATTR, *call), "mount_setattr")


def python_paths() -> list[str]:
    """The directories that imports need, sorted, without those that lie below another one."""
    wanted = {os.path.abspath(p) for p in (sys.prefix, sys.base_prefix, *sys.path) if os.path.isdir(p)}
    below = tuple(path.rstrip("/") + "/" for path in wanted)
    return sorted(path for path in wanted if not path.startswith(below))


def closed_ancestor(path: str) -> str | None:
    """The outermost directory on the way to `path` that other users may not enter."""
    parts = path.split("/")
    for depth in range(2, len(parts) + 1):
        ancestor = "/".join(parts[:depth])
        if not os.stat(ancestor).st_mode & 0o001:
            return ancestor
    return None


def open_the_way() -> None:
    """As root: make Python's directories reachable for other users, where they lie below a private one such as /root.

    In a mount namespace of our own, the private directory is replaced by an empty one that holds
    the needed directories only. Raises OSError.
    """
    closed: dict[str, list[str]] = {}  # private directory: what is needed below it
    for path in python_paths():
        if (ancestor := closed_ancestor(path)) is not None:
            closed.setdefault(ancestor, []).append(path)
    if not closed:
        return
    unshare(NEWNS)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    for ancestor, paths in closed.items():
        # Held open from before the new mount hides them: that is where they are bound from.
        handles = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in paths]
        mount("tmpfs", ancestor, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
        for path, handle in zip(paths, handles, strict=True):
            os.makedirs(path, exist_ok=True)
            if os.fstat(handle).st_mode & 0o001:
                bind(f"/proc/self/fd/{handle}", path)
            else:  # closed itself: what is in it, in an open directory of the same name
                for name in os.listdir(handle):
                    bind(f"/proc/self/fd/{handle}/{name}", f"{path}/{name}")
            os.close(handle)


def bind(source: str, target: str) -> None:
    """Show a file, directory or symbolic link in another place too. Raises OSError."""
    # A descriptor in /proc is a link as well, but stands for what it points to.
    if os.path.islink(source) and not source.removeprefix("/proc/self/fd/").isdigit():
        os.symlink(os.readlink(source), target)
        return
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    mount(source, target, None, MS_BIND | MS_REC)


def drop_root() -> bool:
    """Become an unprivileged user; whether that is what we are now.

    The uid is this process's own, so that process counts and signals are apart from everybody else's;
    where only part of the uids exist (rootless containers) it is nobody's. A process that may not drop
    root, or could then not read Python, stays root.
    """
    if os.geteuid() != 0:
        return True
    with suppress(OSError):
        open_the_way()
    if any(closed_ancestor(path) for path in python_paths()):
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


def close_filesystem(isolation: Isolation, sessions: bool) -> None:
    """Make everything read-only and hide service sockets; `fresh_scratch` mounts the scratch directories later.

    Raises OSError. `sessions`: as in `isolate`.
    """
    paths = python_paths()

    def unused(directory: str) -> bool:
        """Whether it may be hidden: a directory of its own that Python does not live in."""
        plain = os.path.isdir(directory) and os.path.realpath(directory) == directory
        return plain and not any((path + "/").startswith(directory + "/") for path in paths)

    mount("none", "/", None, MS_REC | MS_PRIVATE)
    with suppress(OSError):  # refused where /proc is partly masked (Docker); only hides host processes
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV)
    if sessions:  # each makes namespaces of its own, and forbids them after that
        isolation.proc = writable_proc()
    else:
        forbid_namespaces()
    for directory in filter(unused, HIDDEN):
        mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV)
    make_read_only()
    isolation.scratch = tuple(filter(unused, SCRATCH))


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


def isolate(sessions: bool) -> Isolation:
    """Give up root, network, other processes and files, as far as this machine permits, and tell what was obtained.

    Each step makes the next one possible; one that is refused is the last. `sessions`: forks of this
    process will need namespaces of their own (see `enter_session`). Where pid namespaces exist, returns
    in a fork of the caller, which stays behind as its monitor.
    """
    isolation = Isolation()
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")  # when memory runs out, rather us than the training process
    try:
        isolation.obtained["unprivileged"] = drop_root()
        enter_namespaces(NEWNET | NEWIPC | NEWNS | NEWPID)
        isolation.obtained["network"] = True
        fork_under_monitor()
        isolation.obtained["pid_namespace"] = True
        close_filesystem(isolation, sessions)
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
    checked(libc.capset(*no_capabilities), "capset")
    prctl(PR_SET_DUMPABLE, 1)  # the fork server is closed to ptrace; its fork may look at itself

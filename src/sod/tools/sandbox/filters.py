"""The system calls that programs are refused, as seccomp filters made once by the parent.

`pyseccomp` and `landlock` are ordinary optional packages: where one is missing, or the kernel or
libseccomp is, the layer is left out and `layers()` says why.
"""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import socket
import tempfile
from typing import Any

# A program has no use for these; several have been the way out of sandboxes before.
REFUSED = (
    *("unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "mount_setattr"),
    *("fsopen", "fsconfig", "fsmount", "fspick", "ptrace", "process_vm_readv", "process_vm_writev", "bpf"),
    *("keyctl", "add_key", "request_key", "perf_event_open", "kexec_load", "kexec_file_load", "init_module"),
    *("finit_module", "delete_module", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("open_by_handle_at", "name_to_handle_at", "swapon", "swapoff", "reboot", "acct", "quotactl", "syslog"),
)
NAMESPACE_FLAGS = (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
# What these make belongs to no process: it outlives its program, and others find it by its number.
SHARED = (
    *("shmget", "shmat", "shmctl", "shmdt", "msgget", "msgsnd", "msgrcv", "msgctl", "semget", "semop", "semtimedop"),
    *("semctl", "ipc", "mq_open", "mq_unlink"),
)
# What reaches into another process that may be named, such as one of another worker.
FOREIGN = ("pidfd_getfd", "kcmp", "process_madvise", "process_mrelease", "lookup_dcookie", "vhangup")
# By number of the argument that names a process: any but the caller itself (0) is refused where others are visible.
OF_A_PROCESS = {
    0: (
        *("prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"),
        *("migrate_pages", "move_pages"),
    ),
    1: ("setpriority", "ioprio_set"),
}
# The first argument of these says what the second one names; a process is PRIO_PROCESS and IOPRIO_WHO_PROCESS.
KIND_OF_OWNER = {"setpriority": 0, "ioprio_set": 1}
NETWORK = (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)  # of a namespace of its own: nothing is there
FAMILIES = 64  # more than Linux has
# By these a program can have the kernel send a signal on its behalf.
SET_OWNER, IOCTL_OWNER = (8, 10, 15), (0x8901, 0x8902)  # F_SETOWN, F_SETSIG, F_SETOWN_EX; FIOSETOWN, SIOCSPGRP
# Memory that is in no process's map, or stays when the map is gone.
HIDING = ("memfd_create", "memfd_secret", "vmsplice")
BUFFER_OPTIONS = (socket.SO_SNDBUF, socket.SO_RCVBUF, 32, 33)  # the last two: the same, by force
F_SETPIPE_SZ = 1031
SIGNALLING = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal")
SCOPED_SIGNALS_ABI = 6  # of Landlock (Linux 6.12): a program reaches its own processes only


def layers(counted: bool = True) -> dict[str, Any]:
    """What a fork server is told: filters (hexadecimal BPF), the path of `landlock`, its scope, what is missing.

    `counted`: a cgroup counts all memory of programs; else they are refused what hides memory.
    """
    missing: dict[str, str] = {}
    abi, path = 0, None
    try:
        import landlock

        ctypes.set_errno(0)  # the package takes an old error for a new one
        abi = landlock.landlock_abi_version()
        path = str(importlib.util.find_spec("landlock").submodule_search_locations[0])  # type: ignore[union-attr,index]
    except ImportError:
        missing["landlock"] = "the package `landlock` is not installed"
    except OSError as error:
        missing["landlock"] = f"the kernel has no Landlock: {error.strerror}"
    built: dict[str, str] = {}
    try:
        built["full"] = build(namespaces=True, scoped=True, counted=counted)
        built["reduced"] = build(namespaces=False, scoped=abi >= SCOPED_SIGNALS_ABI, counted=counted)
    except ImportError:
        missing["seccomp"] = "the package `pyseccomp` is not installed"
    except (OSError, RuntimeError) as error:
        missing["seccomp"] = f"libseccomp: {error}"
    return {"filters": built, "landlock": path, "scoped": abi >= SCOPED_SIGNALS_ABI, "missing": missing}


def build(namespaces: bool, scoped: bool, counted: bool = True) -> str:
    """A filter that allows all but what programs are refused. Raises ImportError, OSError, RuntimeError.

    `namespaces`: network and processes are the program's own. `scoped`: signals reach its own processes only.
    `counted`: as in `layers`.
    Calls of another architecture (i386, x32) end the program: libseccomp does so unless told otherwise.
    """
    import pyseccomp as seccomp

    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    # A binary tree: the kernel tries a filter with every system call's number when a program puts it on.
    rules.set_attr(seccomp.Attr.CTL_OPTIMIZE, 2)
    no = seccomp.ERRNO(errno.EPERM)
    architecture = seccomp.system_arch()
    for name in (*REFUSED, *SHARED, *FOREIGN, *(() if scoped else SIGNALLING)):
        if seccomp.resolve_syscall(architecture, name) >= 0:  # else newer than this libseccomp, or not of this machine
            rules.add_rule(no, name)
    for flag in NAMESPACE_FLAGS:
        rules.add_rule(no, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, flag, flag))
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")  # its flags cannot be seen; libc falls back to clone
    refuse_sockets(rules, no, NETWORK if namespaces else ())
    if not namespaces:
        refuse_other_processes(rules, no)
    if not scoped:
        refuse_owners_of_signals(rules, no)
    if not counted:
        refuse_hidden_memory(rules, no)
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read().hex()


def refuse_sockets(rules: Any, no: Any, allowed: tuple[int, ...]) -> None:
    """Add to a filter: no socket of a family that is not `allowed`, and no pair but of AF_UNIX.

    A path or an abstract name of the machine cannot be reached from a pair: both of its ends are connected.
    """
    import pyseccomp as seccomp

    rules.add_rule(no, "socketpair", seccomp.Arg(0, seccomp.NE, socket.AF_UNIX))
    rules.add_rule(no, "socket", seccomp.Arg(0, seccomp.GE, FAMILIES))
    for family in range(FAMILIES):  # a rule may look at an argument once only
        if family not in allowed:
            rules.add_rule(no, "socket", seccomp.Arg(0, seccomp.EQ, family))


def refuse_other_processes(rules: Any, no: Any) -> None:
    """Add to a filter: limits, priorities and processors of no process but the caller."""
    import pyseccomp as seccomp

    for argument, names in OF_A_PROCESS.items():
        for name in names:
            rules.add_rule(no, name, seccomp.Arg(argument, seccomp.NE, 0))
    for name, process in KIND_OF_OWNER.items():
        rules.add_rule(no, name, seccomp.Arg(0, seccomp.NE, process))


def refuse_owners_of_signals(rules: Any, no: Any) -> None:
    """Add to a filter: no descriptor that signals a process when there is something to read."""
    import pyseccomp as seccomp

    for command in SET_OWNER:
        rules.add_rule(no, "fcntl", seccomp.Arg(1, seccomp.EQ, command))
    for request in IOCTL_OWNER:
        rules.add_rule(no, "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, 0xFFFFFFFF, request))


def refuse_hidden_memory(rules: Any, no: Any) -> None:
    """Add to a filter: calls that hold memory outside of a process's map, and larger buffers of sockets and pipes."""
    import pyseccomp as seccomp

    for name in HIDING:
        if seccomp.resolve_syscall(seccomp.system_arch(), name) != -1:
            rules.add_rule(no, name)
    for option in BUFFER_OPTIONS:
        level = seccomp.Arg(1, seccomp.EQ, socket.SOL_SOCKET)
        rules.add_rule(no, "setsockopt", level, seccomp.Arg(2, seccomp.EQ, option))
    rules.add_rule(no, "fcntl", seccomp.Arg(1, seccomp.EQ, F_SETPIPE_SZ))

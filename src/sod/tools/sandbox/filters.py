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
    *("shmget", "shmat", "msgget", "semget", "mq_open"),  # what they make outlives its processes
)
NAMESPACE_FLAGS = (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
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
        built["full"] = build((), counted=counted)
        built["reduced"] = build(() if abi >= SCOPED_SIGNALS_ABI else SIGNALLING, network=False, counted=counted)
    except ImportError:
        missing["seccomp"] = "the package `pyseccomp` is not installed"
    except (OSError, RuntimeError) as error:
        missing["seccomp"] = f"libseccomp: {error}"
    return {"filters": built, "landlock": path, "scoped": abi >= SCOPED_SIGNALS_ABI, "missing": missing}


def build(refused: tuple[str, ...], network: bool = True, counted: bool = True) -> str:
    """A filter that allows all but REFUSED and `refused`; `counted` as in `layers`.

    Raises ImportError, OSError, RuntimeError.
    """
    import pyseccomp as seccomp

    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    no = seccomp.ERRNO(errno.EPERM)
    architecture = seccomp.system_arch()
    for name in (*REFUSED, *refused):
        if seccomp.resolve_syscall(architecture, name) != -1:  # -1: newer than this libseccomp
            rules.add_rule(no, name)
    for flag in NAMESPACE_FLAGS:
        rules.add_rule(no, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, flag, flag))
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")  # its flags cannot be seen; libc falls back to clone
    if not network:
        rules.add_rule(no, "socket", seccomp.Arg(0, seccomp.NE, socket.AF_UNIX))
    if not counted:
        refuse_hidden_memory(rules, no)
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read().hex()


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

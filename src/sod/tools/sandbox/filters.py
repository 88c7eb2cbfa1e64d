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
SIGNALLING = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal")
SCOPED_SIGNALS_ABI = 6  # of Landlock (Linux 6.12): a program reaches its own processes only


def layers() -> dict[str, Any]:
    """What a fork server is told: filters (hexadecimal BPF), the path of `landlock`, its scope, what is missing."""
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
        built["full"] = build(())
        built["reduced"] = build(() if abi >= SCOPED_SIGNALS_ABI else SIGNALLING, network=False)
    except ImportError:
        missing["seccomp"] = "the package `pyseccomp` is not installed"
    except (OSError, RuntimeError) as error:
        missing["seccomp"] = f"libseccomp: {error}"
    return {"filters": built, "landlock": path, "scoped": abi >= SCOPED_SIGNALS_ABI, "missing": missing}


def build(refused: tuple[str, ...], network: bool = True) -> str:
    """A filter that allows all but REFUSED and `refused`. Raises ImportError, OSError, RuntimeError."""
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
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read().hex()

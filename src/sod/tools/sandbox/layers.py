"""Two more layers around a program: system calls it is refused (seccomp), files it may not open (Landlock).

Part of the fork server (see `fork_server.py`): needs nothing but the standard library and, where it is
installed, the package `landlock`. Filters come ready-made from the parent (`filters.py`). With namespaces these
are a second line of defence; without, they are what keeps network and files away.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, final

from .mounts import checked, libc
from .new_root import DEVICES, ETC, SYSTEM

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
RULE_PATH_BENEATH = 1
INSTRUCTION_BYTES = 8
REHEARSALS = 8  # after as many calls Python has settled a function's code: forks then need not write to it
SCOPE_ABSTRACT_UNIX, SCOPE_SIGNAL = 1, 2


@final
class _FilterProgram(ctypes.Structure):
    """The kernel's `sock_fprog`."""

    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]


@final
@dataclass(frozen=True)
class Layers:
    """What a fork has to do, prepared once. Empty where a layer is not to be had."""

    seccomp: _FilterProgram | None
    landlock: Any  # the module, or None
    scope: int  # descriptor of a second set of rules: signals and abstract sockets stay inside; -1: none
    rules: tuple[tuple[int, int], ...]  # a descriptor and the rights below it
    everything: int  # all rights that this kernel knows


def load_landlock(config: dict[str, Any]) -> Any:
    """The package `landlock`, or None. Must be called before root is dropped: it may lie below a private directory."""
    if config["landlock"] is None:
        return None
    parent = os.path.dirname(config["landlock"])
    sys.path.insert(0, parent)
    try:
        return importlib.import_module("landlock")
    except ImportError as error:
        config["missing"]["landlock"] = f"the package `landlock` cannot be imported: {error}"
        return None
    finally:
        sys.path.remove(parent)


def prepare(config: dict[str, Any], landlock: Any, full: bool, paths: Sequence[str]) -> Layers:
    """What of the two layers can be had here, where programs may read `paths`.

    `full`: namespaces keep network and processes apart, and the root holds only what programs may see.
    """
    code = bytes.fromhex(config["filters"].get("full" if full else "reduced", ""))
    seccomp = _FilterProgram(len(code) // INSTRUCTION_BYTES, code) if code else None
    # A proc file system of one's own shows nothing but one's own; the machine's shows everybody.
    own = ("/proc", "/etc") if full else tuple(f"/etc/{name}" for name in ETC)
    if landlock is None:
        return Layers(seccomp, None, -1, (), 0)
    ctypes.set_errno(0)  # the package takes an old error for a new one
    landlock.landlock_abi_version()  # remembered by it
    access = landlock.FSAccess
    read = int(access.EXECUTE | access.READ_FILE | access.READ_DIR)
    rules = _rules(landlock, (*SYSTEM, *paths, *own), read) + _rules(landlock, DEVICES, access.all_file())
    scope = _scope(landlock.plumbing) if config["scoped"] else -1
    layers = Layers(seccomp, landlock, scope, tuple(rules), int(access.all()))
    landlock.plumbing.get_restrict_self()  # the package makes it at the first use: once here, not in every fork
    for _ in range(REHEARSALS):
        os.close(_ruleset(layers, ("/tmp",)))
    return layers


def proven(layers: Layers, missing: dict[str, str]) -> Layers:
    """The layers less those that a fork of this process cannot really put on; why goes to `missing`."""
    if not _works(replace(layers, landlock=None)):
        layers = replace(layers, seccomp=None)
        missing["seccomp"] = "a seccomp filter is refused"
    if not _works(replace(layers, seccomp=None)):
        layers = replace(layers, landlock=None)
        missing["landlock"] = "a Landlock ruleset is refused"
    return layers


def _works(layers: Layers) -> bool:
    """Whether a fork of this process can put them on."""
    if (pid := os.fork()) == 0:
        status = 1
        try:
            apply(layers, ())
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


def apply(layers: Layers, writable: Sequence[str]) -> None:
    """In the fork: give up all but what the layers leave, and writing below `writable`. Raises OSError.

    The kernel asks for no_new_privs, which `isolate` has set.
    """
    if layers.landlock is not None:
        restrict = layers.landlock.plumbing.get_restrict_self()
        handle = _ruleset(layers, writable)
        ctypes.set_errno(0)  # the package takes an old error for a new one
        restrict(handle, 0)
        if layers.scope >= 0:
            restrict(layers.scope, 0)
    if layers.seccomp is not None:
        checked(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(layers.seccomp), 0, 0), "seccomp")


def _rules(landlock: Any, paths: Sequence[str], access: int) -> list[tuple[int, int]]:
    """A descriptor and the rights below it, for each path that is there."""
    files = int(landlock.FSAccess.all_file())
    rules = []
    for path in paths:
        with suppress(FileNotFoundError):
            handle = os.open(path, os.O_PATH)
            rules.append((handle, access if stat.S_ISDIR(os.fstat(handle).st_mode) else access & files))
    return rules


def _ruleset(layers: Layers, writable: Sequence[str]) -> int:
    """A descriptor of the rules: the system's and Python's files may be read, devices used, `writable` written to."""
    plumbing = layers.landlock.plumbing
    attributes = plumbing.RulesetAttr(layers.everything)
    ctypes.set_errno(0)
    ruleset = plumbing.get_create_ruleset()(ctypes.byref(attributes), ctypes.sizeof(attributes), 0)
    add = plumbing.get_add_rule()
    directories = [(os.open(path, os.O_PATH), layers.everything) for path in writable]
    for handle, access in (*layers.rules, *directories):
        add(ruleset, RULE_PATH_BENEATH, ctypes.byref(plumbing.PathBeneathAttr(access, handle)), 0)
    for handle, _ in directories:
        os.close(handle)
    return int(ruleset)


def _scope(plumbing: Any) -> int:
    """A descriptor of rules that keep signals and abstract sockets inside; the package does not know of them yet."""

    class Scoped(plumbing.RulesetAttr):  # type: ignore[misc]
        _fields_ = [("handled_access_net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]  # noqa: RUF012  # ctypes

    attributes = Scoped(0, 0, SCOPE_ABSTRACT_UNIX | SCOPE_SIGNAL)
    ctypes.set_errno(0)
    return int(plumbing.get_create_ruleset()(ctypes.byref(attributes), ctypes.sizeof(attributes), 0))

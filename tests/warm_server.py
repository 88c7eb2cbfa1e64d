"""The server of `warm.py`: `python warm_server.py CHANNEL`, the descriptor of a socket on which it is asked to fork.

A message names arguments, working directory and environment, and brings the three streams and a socket along, to which
the process id goes and, at the end, the exit code.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

import sod  # noqa: F401  # before PyTorch, as a command does; it settles how OpenMP's threads wait

HEAVY = (
    "httpx",
    "matplotlib.figure",
    "pyarrow.parquet",
    "pydantic.type_adapter",
    "rich.console",
    "safetensors.torch",
    "sympy",
    "tokenizers",
    "torch.nn.attention.varlen",
    "torch.utils.flop_counter",
    "transformers.modeling_layers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.qwen3.modeling_qwen3",
    "typer",
    "yaml",
)
"""What commands import of others. Nothing of it may compute or start a thread at its import."""


def forked() -> dict[str, Any] | None:
    """Serve until the channel is closed, then None; in each process that was asked for, what was asked."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    while True:
        text, descriptors, _, _ = socket.recv_fds(channel, 1 << 20, 4)
        if not text:
            return None
        if os.fork() == 0:
            channel.close()
            return kept(json.loads(text), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def kept(asked: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
    """Fork the process itself; here its keeper waits for it, tells of it and ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, status = descriptors
    if pid := os.fork():
        for descriptor in streams:
            os.close(descriptor)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with suppress(OSError):  # whoever asked is gone
            tell(status, code)
        os._exit(0)
    os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    tell(status, os.getpid())
    os.closerange(3, max(descriptors) + 1)
    return asked


def tell(status: int, number: int) -> None:
    os.write(status, number.to_bytes(8, sys.byteorder, signed=True))


def settle(asked: dict[str, Any]) -> None:
    """Make of this process what the start of the interpreter makes of one."""
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.orig_argv = [sys.executable, *asked["arguments"]]
    given = asked["env"].get("PYTHONPATH", "")
    sys.path[:1] = [part for part in given.split(os.pathsep) if part and part not in sys.path]


def run(arguments: list[str]) -> None:
    """What `python ARGUMENTS` runs, as `__main__`."""
    if arguments[0] == "-m":
        sys.argv = ["-m", *arguments[2:]]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    sys.argv = list(arguments)
    if arguments[0] == "-":
        sys.path.insert(0, "")
        exec(compile(sys.stdin.read(), "<stdin>", "exec"), {"__name__": "__main__"})
        return
    sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    for module in HEAVY:
        importlib.import_module(module)
    gc.freeze()  # the forks share what is there
    request = forked()
    if request is not None:
        settle(request)
        run(request["arguments"])

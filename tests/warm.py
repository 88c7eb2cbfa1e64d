"""Python processes that begin with PyTorch and transformers imported: forks of a server that imported them once.

What a test of a command is about begins after that, and the imports take longer than most runs of a few steps. Else
each process is one of its own: a session, a working directory, an environment and streams as given, `sod` imported
anew, and signals that kill it. Left out is what only the start of a program can do (allocator, OpenMP, flags of the
interpreter): a test of that starts the real command.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, final

SERVER = Path(__file__).with_name("warm_server.py")
NUMBER = 8
"""Bytes of a process id or an exit code that the server sends."""


@final
class WarmProcess:
    """A process of the server's, to be used as a `subprocess.Popen` of text is."""

    def __init__(self, arguments: Sequence[str], status: socket.socket, output: IO[str], errors: IO[str]) -> None:
        self.args = ["python", *arguments]
        self._status = status
        self.stdout, self.stderr = output, errors
        self.pid = self._number()
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, or None; a signal's number, negative, where one ended the process."""
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once there is one. Raises `subprocess.TimeoutExpired`."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What the process has written, once it has ended; asked again, nothing more."""
        if self.stdout.closed:
            return "", ""
        with self.stdout, self.stderr, ThreadPoolExecutor(2) as readers:
            said = [readers.submit(stream.read) for stream in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()  # else the readers would wait on
                raise
            return said[0].result(), said[1].result()

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process is known to have ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """See `send_signal`."""
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = self._number()
            self._status.close()
        return self.returncode

    def _number(self) -> int:
        sent = self._status.recv(NUMBER)
        assert sent, "the server of warm processes is gone"
        return int.from_bytes(sent, sys.byteorder, signed=True)


def start_warm(
    arguments: Sequence[object],
    cwd: Path | None = None,
    env: Mapping[str, str] = os.environ,
    stdin: int | None = None,
    terminal: int | None = None,
) -> WarmProcess:
    """`python ARGUMENTS` (`-m MODULE ...`, `FILE ...`, or `-` with the program on `stdin`) in a session of its own.

    It writes into pipes, or into the `terminal`. Computes with one thread, by glibc's own allocator.
    """
    words = [str(word) for word in arguments]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    output, errors = os.pipe(), os.pipe()
    nothing = os.open(os.devnull, os.O_RDONLY)
    given = [stdin, output[1], errors[1]] if terminal is None else [terminal, terminal, terminal]
    asked = {
        "arguments": words,
        "cwd": str(cwd or Path.cwd()),
        "env": {**env, "OMP_NUM_THREADS": "1", "SOD_ALLOCATOR": "off"},
    }
    streams = [nothing if stream is None else stream for stream in given]
    socket.send_fds(_server(), [json.dumps(asked).encode()], [*streams, theirs.fileno()])
    theirs.close()
    for descriptor in (output[1], errors[1], nothing):
        os.close(descriptor)
    return WarmProcess(words, ours, os.fdopen(output[0], encoding="utf-8"), os.fdopen(errors[0], encoding="utf-8"))


def run_warm(
    arguments: Sequence[object],
    cwd: Path | None = None,
    env: Mapping[str, str] = os.environ,
    program: str | None = None,
    timeout: float = 600.0,
) -> subprocess.CompletedProcess[str]:
    """The process of `start_warm`, ended; `program` is its input."""
    with open(os.devnull) if program is None else _file_of(program) as read:
        process = start_warm(arguments, cwd, env, read.fileno())
    out, err = process.communicate(timeout)
    return subprocess.CompletedProcess(process.args, process.wait(), out, err)


def _file_of(text: str) -> IO[str]:
    read, write = os.pipe()
    with os.fdopen(write, "w", encoding="utf-8") as pipe:
        pipe.write(text)  # shorter than what a pipe holds
    return os.fdopen(read, encoding="utf-8")


@cache
def _server() -> socket.socket:
    """The channel to this process's own server, which ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, str(SERVER), str(theirs.fileno())]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.Popen(command, env=env, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True)
    theirs.close()
    return ours

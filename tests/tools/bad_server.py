"""A SandboxFusion service on loopback that misbehaves as told, for tests of whoever must live with one.

    with BadServer(plan=always("http_500")) as server:
        FusionSandbox(server.url)...

`plan(n)` names the behaviour toward the n-th request (from 0, in order of arrival), `answer(body)`
makes the good answer: `hello` is a constant one, `running(sandbox)` really runs the program.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal, get_args

from sod.seeds import derive
from sod.tools.sandbox.base import ProgramLimits, SessionSandbox
from sod.tools.sandbox.server import RunCodeRequest, run_code

Behaviour = Literal[
    "good",
    "slow",  # good, after 0.3 s
    "http_500",
    "http_404",
    "sandbox_error",  # HTTP 200, and the service says that it failed
    "drop",  # the connection ends without an answer
    "cut",  # the connection ends within the answer's body
    "hang",  # no answer, the connection stays
    "trickle",  # the answer's header, then a byte of it now and then
    "not_json",
    "wrong_types",
    "endless",  # a body without end
]
Plan = Callable[[int], Behaviour]

SECRET = "INFRASTRUCTURE"  # in every text of the service's own: must never be taken for a program's output
HANG_SECONDS = 30.0
ENDLESS_BYTES = 256 << 20
HELLO: dict[str, Any] = {
    "status": "Success",
    "message": "",
    "compile_result": None,
    "run_result": {
        "status": "Finished",
        "execution_time": 0.01,
        "return_code": 0,
        "stdout": "hello\n",
        "stderr": "",
    },
    "executor_pod_name": None,
    "files": {},
}


def always(behaviour: Behaviour) -> Plan:
    """The same toward every request."""
    return lambda number: behaviour


def first(behaviours: Sequence[Behaviour], then: Behaviour = "good") -> Plan:
    """One after the other, then `then`."""
    return lambda number: behaviours[number] if number < len(behaviours) else then


def sometimes(rate: float, seed: int, among: Sequence[Behaviour] = ("http_500", "drop", "cut", "not_json")) -> Plan:
    """Good but for a share `rate` of the requests, which a function of the seed and the number picks."""

    def plan(number: int) -> Behaviour:
        if derive(seed, "fails", number) / 2**63 >= rate:
            return "good"
        return among[derive(seed, "how", number) % len(among)]

    return plan


def hello(body: bytes) -> bytes:
    """The program printed `hello`."""
    return json.dumps(HELLO).encode()


def running(sandbox: SessionSandbox, limits: ProgramLimits) -> Callable[[bytes], bytes]:
    """What the program really does."""

    def answer(body: bytes) -> bytes:
        return run_code(sandbox, limits, RunCodeRequest.model_validate_json(body)).model_dump_json().encode()

    return answer


class BadServer:
    """Listens from the beginning, on `port` or on a free one; a thread per connection."""

    def __init__(
        self,
        plan: Plan = always("good"),  # noqa: B008  # a constant function
        answer: Callable[[bytes], bytes] = hello,
        port: int = 0,
    ) -> None:
        self.plan = plan  # may be replaced at any time
        self.requests = 0
        self.bodies: list[bytes] = []
        self._answer = answer
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> BadServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Stop at once and reset every connection. Another server may take the port. Safe to call twice."""
        self._over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as stream:
            while not self._over.is_set() and (line := stream.readline()):
                length = 0
                while line.strip():
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                    line = stream.readline()
                body = stream.read(length)
                if len(body) < length:  # the client gave up
                    break
                with self._lock:
                    number = self.requests
                    self.requests += 1
                    self.bodies.append(body)
                if not self._behave(connection, self.plan(number), body):
                    break
        with self._lock:
            self._connections.discard(connection)

    def _behave(self, connection: socket.socket, behaviour: Behaviour, body: bytes) -> bool:
        """Answer one request; whether the connection goes on."""
        assert behaviour in get_args(Behaviour), behaviour
        if behaviour == "drop":
            return False
        if behaviour == "hang":
            self._over.wait(HANG_SECONDS)
            return False
        if behaviour == "endless":
            connection.sendall(_header("200 OK", None))
            for _ in range(ENDLESS_BYTES >> 16):
                connection.sendall(b"10000\r\n" + b" " * (1 << 16) + b"\r\n")
            return False
        if behaviour == "slow":
            time.sleep(0.3)
        status, content = self._content(behaviour, body)
        head = _header(status, len(content))
        if behaviour == "cut":
            connection.sendall(head + content[: len(content) // 2])
            return False
        if behaviour == "trickle":
            connection.sendall(head)
            for byte in content:
                connection.sendall(bytes([byte]))
                if self._over.wait(0.1):
                    break
            return False
        connection.sendall(head + content)
        return True

    def _content(self, behaviour: Behaviour, body: bytes) -> tuple[str, bytes]:
        if behaviour == "http_500":
            return "500 Internal Server Error", f"{SECRET}: traceback".encode()
        if behaviour == "http_404":
            return "404 Not Found", SECRET.encode()
        if behaviour == "sandbox_error":
            told = {"status": "Error", "stderr": f"{SECRET}: no such executor"}
            reply = {**HELLO, "status": "SandboxError", "message": f"{SECRET}: overload", "run_result": told}
            return "200 OK", json.dumps(reply).encode()
        if behaviour == "not_json":
            return "200 OK", f"<html>{SECRET}</html>".encode()
        if behaviour == "wrong_types":
            reply = {**HELLO, "run_result": {**HELLO["run_result"], "stdout": [SECRET], "return_code": "0"}}
            return "200 OK", json.dumps(reply).encode()
        return "200 OK", self._answer(body)


def _header(status: str, length: int | None) -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{size}\r\n\r\n".encode()

"""Who is let in to the sandbox's server, asked over raw sockets: hosts, origins, tokens, JSON, slow clients."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from processes import PATIENT
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from sod.tools.sandbox.gate import Entrance, Gate
from sod.tools.sandbox.listener import PunctualProtocol, make_server

TOKEN = "a-token-of-these-tests"
JSON = "Content-Type: application/json"
HERE = "Host: 127.0.0.1:8080"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """The application behind the gate: says how long a body is, and parses none."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    message = await receive()
    await JSONResponse({"bytes": len(message["body"])})(scope, receive, send)


@contextmanager
def gate(entrance: Entrance = Entrance(), **limits: Any) -> Iterator[int]:  # noqa: B008
    """The port of a server with a gate of these limits."""
    server = make_server(Gate(echo, entrance, **limits), grace_seconds=1)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENT)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with gate() as opened:
        yield opened


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENT)


def answer(connection: socket.socket) -> tuple[int, str]:
    """Status and body of what comes until the connection's end."""
    data = b""
    while chunk := connection.recv(1 << 16):
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


def ask(port: int, *headers: str, method: str = "POST", body: bytes = b"{}") -> tuple[int, str]:
    lines = [f"{method} /run_code HTTP/1.1", "Connection: close", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    with connected(port) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        return answer(connection)


def assert_refused(got: tuple[int, str], status: int, *words: str) -> None:
    assert got[0] == status, got
    detail = json.loads(got[1])["detail"]
    assert "\n" not in detail
    assert all(word in detail for word in words)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8080", "127.9.9.9:1", "localhost", "LocalHost.:80", "[::1]", "[::1]:8080"]
)
def test_loopback_is_served_by_each_of_its_names(port: int, host: str) -> None:
    assert ask(port, f"Host: {host}", JSON) == (200, '{"bytes":2}')


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil-localhost",
        "0.0.0.0",
        "192.168.1.7",
        "8.8.8.8:80",
        "2130706433",
        "[::ffff:8.8.8.8]",
        "user@127.0.0.1",
        "127.0.0.1:80:80",
        "127.0.0.1, evil.example",
        "127.0.0.1/x",
        "",
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_foreign_host_is_refused(port: int, host: str, method: str) -> None:
    assert_refused(ask(port, f"Host: {host}", JSON, method=method), 403, "Host")


def test_the_names_that_a_server_was_given_are_its_own() -> None:
    with gate(Entrance(frozenset({"box.example"}))) as port:
        assert ask(port, "Host: Box.Example:80", JSON)[0] == 200
        assert_refused(ask(port, "Host: other.example", JSON), 403)
    with gate(Entrance(addresses=True)) as port:
        assert ask(port, "Host: 192.168.1.7", JSON)[0] == 200
        assert_refused(ask(port, "Host: other.example", JSON), 403)


@pytest.mark.parametrize("method", ["POST", "GET", "OPTIONS"])
@pytest.mark.parametrize(
    "header",
    [
        "Origin: https://evil.example",
        "Origin: null",
        "Origin: ",
        "Origin: http://localhost:3000",
        "Origin: http://127.0.0.1",
        "Origin: http://127.0.0.1:8080.evil.example",
        "Origin: file://",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
    ],
)
def test_pages_of_another_origin_are_refused(port: int, method: str, header: str) -> None:
    assert_refused(ask(port, HERE, JSON, header, method=method), 403, "Origin")


def test_our_own_pages_may_ask(port: int) -> None:
    assert ask(port, HERE, JSON, "Origin: http://127.0.0.1:8080", "Sec-Fetch-Site: same-origin")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("Content-Type: text/plain",),
        ("Content-Type: text/plain; charset=application/json",),
        ("Content-Type: application/x-www-form-urlencoded",),
        ("Content-Type: multipart/form-data; boundary=x",),
        ("Content-Type: application/jsonx",),
        ("Content-Type: ",),
        (JSON, "Content-Type: text/plain"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
def test_a_body_that_is_not_said_to_be_json_is_refused(port: int, headers: Sequence[str], method: str) -> None:
    assert_refused(ask(port, HERE, *headers, method=method), 415, "application/json")


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/json;x=y"])
def test_json_may_have_parameters(port: int, kind: str) -> None:
    assert ask(port, HERE, f"Content-Type: {kind}")[0] == 200


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Authorization: Bearer",
        "Authorization: Bearer ",
        f"Authorization: {TOKEN}",
        f"Authorization: Basic {TOKEN}",
        f"Authorization: Bearer {TOKEN}x",
        f"Authorization: Bearer {TOKEN[:-1]}",
        f"Authorization: Bearer {TOKEN.upper()}",
        f"Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}",
        f"X-Token: {TOKEN}",
    ],
)
def test_without_the_token_nobody_is_let_in(header: str) -> None:
    with gate(Entrance(token=TOKEN)) as port:
        headers = [header] if header else []
        got = ask(port, HERE, JSON, *headers)
        assert_refused(got, 401, "SANDBOX_FUSION_API_KEY")
        assert TOKEN not in got[1]
        assert ask(port, HERE, *headers, method="GET", body=b"")[0] == 401
        assert ask(port, HERE, JSON, f"Authorization: bearer {TOKEN}")[0] == 200


def test_a_body_longer_than_allowed_is_refused_said_or_unsaid() -> None:
    with gate(body_bytes=1000) as port:
        assert ask(port, HERE, JSON, body=b" " * 1000)[0] == 200
        assert_refused(ask(port, HERE, JSON, body=b" " * 1001), 413)
        with connected(port) as connection:
            head = f"POST / HTTP/1.1\r\n{HERE}\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head.encode() + b"800\r\n" + b" " * 0x800 + b"\r\n")
            assert_refused(answer(connection), 413)
        with connected(port) as connection:  # before any of it is sent
            connection.sendall(f"POST / HTTP/1.1\r\n{HERE}\r\n{JSON}\r\nContent-Length: 99999999999\r\n\r\n".encode())
            assert_refused(answer(connection), 413)


def test_all_bodies_together_have_a_budget_that_is_given_back() -> None:
    head = f"POST / HTTP/1.1\r\n{HERE}\r\n{JSON}\r\nConnection: close\r\nContent-Length: 900\r\n\r\n".encode()
    with gate(body_bytes=1000, bodies_bytes=1500) as port:
        for last in (b"", b" " * 100):  # the first client hangs up, the second goes on
            with connected(port) as slow:
                slow.sendall(head + b" " * 800)
                until(lambda: ask(port, HERE, JSON, body=b" " * 900)[0] == 503)
                assert ask(port, HERE, JSON, body=b" " * 500)[0] == 200
                slow.sendall(last)
                assert not last or answer(slow)[0] == 200
            until(lambda: ask(port, HERE, JSON, body=b" " * 1000)[0] == 200)


def until(condition: Any) -> None:
    end = time.monotonic() + PATIENT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_body_that_does_not_come_is_given_up() -> None:
    with gate(body_seconds=0.3) as port, connected(port) as connection:
        connection.sendall(f"POST / HTTP/1.1\r\n{HERE}\r\n{JSON}\r\nContent-Length: 9\r\n\r\n{{".encode())
        assert_refused(answer(connection), 408, "0.3 s")


@pytest.mark.parametrize(
    ("sent", "before"),
    [
        *((sent, before) for sent in ("GET", f"GET / HTTP/1.1\r\n{HERE}\r\nX-A: ") for before in (False, True)),
        ("", False),
        pytest.param("", True, marks=pytest.mark.slow),  # the server gives an idle connection five seconds
    ],
)
def test_a_header_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch, sent: str, before: bool) -> None:
    """Also where a byte comes now and then, and where the connection has had an answer before."""
    monkeypatch.setattr(PunctualProtocol, "header_seconds", 0.5)
    with gate() as port, connected(port) as connection:
        if before:
            connection.sendall(f"GET / HTTP/1.1\r\n{HERE}\r\n\r\n".encode())
            got = connection.recv(1 << 16)
            while not got.endswith(b'{"bytes":0}'):
                got += connection.recv(1 << 16)
            assert got.startswith(b"HTTP/1.1 200")
        connection.sendall(sent.encode())
        over = threading.Event()
        if sent.endswith(": "):
            threading.Thread(target=trickle, args=(connection, over), daemon=True).start()
        try:
            got = connection.recv(1 << 16)
        except ConnectionResetError:  # it was closed while we were sending
            got = b""
        over.set()
        assert got == b"" or got.startswith(b"HTTP/1.1 408 ")


def trickle(connection: socket.socket, over: threading.Event) -> None:
    with suppress(OSError):  # it was closed
        while not over.wait(0.05):
            connection.sendall(b"a")


def test_a_request_that_takes_long_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PunctualProtocol, "header_seconds", 0.3)
    with gate() as port, connected(port) as connection:
        connection.sendall(
            f"POST / HTTP/1.1\r\n{HERE}\r\n{JSON}\r\nConnection: close\r\nContent-Length: 2\r\n\r\n".encode()
        )
        time.sleep(0.8)
        connection.sendall(b"{}")
        assert answer(connection) == (200, '{"bytes":2}')


def test_websockets_are_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    asyncio.run(Gate(echo)({"type": "websocket", "headers": []}, receive, send))
    assert sent == [{"type": "websocket.close"}]

"""Services behind https, a proxy and a `Retry-After`, by real servers; what else can go wrong: `test_judge.py` and the
served teachers.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest

from scoring_server import ScoringServer
from sod.records import SodError
from sod.service import Patience, Service, proxy_of, seconds_in

PATIENCE = Patience(20.0, 1, 0.0, 0.0, 20, 1.0)
OPENSSL = shutil.which("openssl")
NEW = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=own"
VARIABLES = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*VARIABLES, "SSL_CERT_FILE", "SSL_CERT_DIR"]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: Any) -> Path:
    """A certificate for 127.0.0.1 that nobody but itself has signed, and its key beside it."""
    if OPENSSL is None:
        pytest.skip("no openssl")
    directory: Path = tmp_path_factory.mktemp("tls")
    files = ["-keyout", str(directory / "key.pem"), "-out", str(directory / "cert.pem")]
    subprocess.run(
        [OPENSSL, *NEW.split(), "-addext", "subjectAltName=IP:127.0.0.1", *files], check=True, capture_output=True
    )
    return directory / "cert.pem"


@pytest.fixture
def server(certificate: Path) -> Iterator[ScoringServer]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, certificate.with_name("key.pem"))
    with ScoringServer(None, None, tls=tls) as server:
        yield server


def status(url: str) -> int:
    """What `GET url/models` is answered with."""

    async def got() -> int:
        service = Service("teacher", url, "SOD_NO_KEY", PATIENCE)
        try:
            return (await service.get("models")).status_code
        except httpx.HTTPError as error:
            raise SodError(service.why(error)) from error
        finally:
            await service.close()

    return asyncio.run(got())


def test_a_certificate_of_ones_own_is_trusted_where_it_is_named(
    server: ScoringServer, certificate: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SodError, match=r"signed by nobody known here; name the file of its authority .* SSL_CERT_FILE"):
        status(server.url)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert status(server.url) == 200
    (tmp_path / "none.pem").write_text("no certificate")
    for name in ("none.pem", "nowhere.pem"):
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / name))
        with pytest.raises(SodError, match=rf"SSL_CERT_FILE=.*{name}: cannot be read as certificates"):
            status(server.url)


class Tunnel:
    """A proxy that connects its clients to whom they ask for; `asked` are the first lines."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            self.asked.append(head.decode())
            host, port = head.split()[1].decode().split(":")
            there = socket.create_connection((host, int(port)))
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            for ends in ((client, there), (there, client)):
                threading.Thread(target=self.carry, args=ends, daemon=True).start()

    def carry(self, one: socket.socket, other: socket.socket) -> None:
        while data := one.recv(65536):
            other.sendall(data)
        other.close()


def test_https_goes_through_the_proxy_of_the_environment_and_http_does_not(
    server: ScoringServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy is shown an address, and no key."""
    tunnel = Tunnel()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("SOD_NO_KEY", "k-secret")
    monkeypatch.setenv("HTTPS_PROXY", tunnel.url)
    monkeypatch.setenv("HTTP_PROXY", tunnel.url)
    assert status(server.url) == 200
    (head,) = tunnel.asked
    assert head.startswith("CONNECT 127.0.0.1:")
    assert "k-secret" not in head
    with ScoringServer(None, None) as plain:
        assert status(plain.url) == 200
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert status(server.url) == 200
    assert len(tunnel.asked) == 1
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1")
    assert proxy_of(server.url) is None
    with pytest.raises(SodError, match="HTTPS_PROXY: "):
        proxy_of("https://teacher.example/v1")
    tunnel.socket.close()


def test_how_long_we_are_asked_to_wait() -> None:
    assert seconds_in("7") == 7.0
    assert 50.0 < seconds_in(formatdate(time.time() + 60.0, usegmt=True)) <= 60.0
    assert seconds_in(formatdate(time.time() - 60.0, usegmt=True)) == 0.0
    assert [seconds_in(said) for said in ("", "soon", "-3", "1e9")] == [0.0] * 4

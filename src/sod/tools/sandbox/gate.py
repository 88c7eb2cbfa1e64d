"""What a request must bring before the server's application sees it, and how much of it there may be.

Nothing here relies on the framework: every check is made on the request as it came. Against whom:

- pages in a browser on this machine, which may post to loopback: `Origin`, `Sec-Fetch-Site`, and a
  content type of JSON, which a page cannot send elsewhere without asking first (and is refused);
- names that an attacker's DNS makes resolve to us, which turn such a page into our own: `Host`;
- whoever reaches the port: the bearer token;
- requests without end, and many at a time: bytes and seconds.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 64 << 20  # of one request
MAX_BODIES_BYTES = 256 << 20  # of all requests that are not answered yet
BODY_SECONDS = 60.0  # from a request's header to the end of its body
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^\s\[\]:@/?#,]+)(:\d*)?")


@final
@dataclass(frozen=True)
class Entrance:
    """Who may come in.

    `hosts` are the names besides this machine's loopback that a request's `Host` may have; where
    `addresses` is set, any IP address is good too (no DNS stands behind one). An empty `token` asks
    for none.
    """

    hosts: frozenset[str] = frozenset()
    addresses: bool = False
    token: str = ""

    def refusal(self, scope: Scope) -> RefusedError | None:
        """Why a request is refused by its header; None where it is not."""
        hosts, origins = _values(scope, b"host"), _values(scope, b"origin")
        if len(hosts) != 1 or not self._knows(hosts[0]):
            return RefusedError(403, "this Host is not served here: ask by address, or serve with --allow-host NAME")
        own = {f"{scheme}://{hosts[0].lower()}" for scheme in ("http", "https")}
        elsewhere = [site for site in _values(scope, b"sec-fetch-site") if site not in ("same-origin", "none")]
        if elsewhere or any(origin.lower() not in own for origin in origins):
            return RefusedError(403, "requests from pages of another Origin are refused")
        if self.token and not self._proven(_values(scope, b"authorization")):
            return RefusedError(401, "a bearer token is needed: set SANDBOX_FUSION_API_KEY to the server's")
        return _body_refusal(scope)

    def _knows(self, host: str) -> bool:
        found = _HOST.fullmatch(host.lower())
        if found is None:
            return False
        name = found["name"].strip("[]").removesuffix(".")
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name == "localhost" or name in self.hosts
        return self.addresses or address.is_loopback or name in self.hosts

    def _proven(self, given: list[str]) -> bool:
        scheme, _, token = (given[0] if len(given) == 1 else "").partition(" ")
        right = hmac.compare_digest(token.strip().encode(), self.token.encode())
        return right and scheme.lower() == "bearer"


@final
class RefusedError(Exception):
    """The status and the line that a refused request is answered with."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


@final
class Gate:
    """Middleware that refuses what `entrance` does not let in, and hands on the rest with its body read whole."""

    def __init__(
        self,
        app: ASGIApp,
        entrance: Entrance = Entrance(),
        body_bytes: int = MAX_BODY_BYTES,
        bodies_bytes: int = MAX_BODIES_BYTES,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        self._app = app
        self._entrance = entrance
        self._body_bytes = body_bytes
        self._body_seconds = body_seconds
        self._left = bodies_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is refused; pass on any other."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        try:
            if (refusal := self._entrance.refusal(scope)) is not None:
                raise refusal
            await self._pass_on(scope, receive, send)
        except RefusedError as refused:
            headers = {"Connection": "close"}  # what it sends still is not read
            if refused.status == 401:
                headers["WWW-Authenticate"] = "Bearer"
            await JSONResponse({"detail": refused.why}, refused.status, headers)(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._accounted() as body:
            try:
                async with asyncio.timeout(self._body_seconds):
                    complete = await self._read(receive, body)
            except TimeoutError:
                raise RefusedError(408, f"the body was not complete after {self._body_seconds:g} s") from None
            if not complete:  # the client went away
                return
            messages: Iterator[Message] = iter([{"type": "http.request", "body": bytes(body), "more_body": False}])

            async def replayed() -> Message:
                return next(messages, None) or await receive()

            await self._app(scope, replayed, send)

    async def _read(self, receive: Receive, body: bytearray) -> bool:
        """Read the rest of a request; whether it came to its end. Raises RefusedError."""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            piece = message.get("body", b"")
            if len(body) + len(piece) > self._body_bytes:
                raise RefusedError(413, f"a request has at most {self._body_bytes} bytes")
            if len(piece) > self._left:
                raise RefusedError(503, "too many bytes of requests are under way; try again later")
            self._left -= len(piece)
            body += piece
            if not message.get("more_body", False):
                return True

    @contextmanager
    def _accounted(self) -> Iterator[bytearray]:
        """A buffer whose bytes `_read` takes from the budget of all; given back at the end."""
        body = bytearray()
        try:
            yield body
        finally:
            self._left += len(body)


def _values(scope: Scope, name: bytes) -> list[str]:
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    return [value.decode("latin-1").strip() for key, value in headers if key.lower() == name]


def _body_refusal(scope: Scope) -> RefusedError | None:
    """A body must be declared to be JSON, and may not be declared longer than one may be."""
    lengths = _values(scope, b"content-length")
    empty = lengths in ([], ["0"]) and not _values(scope, b"transfer-encoding")
    if scope["method"] in ("GET", "HEAD", "OPTIONS") and empty:
        return None
    kinds = [kind.partition(";")[0].strip().lower() for kind in _values(scope, b"content-type")]
    if kinds != ["application/json"]:
        return RefusedError(415, "a body must have the Content-Type application/json")
    if any(int(length) > MAX_BODY_BYTES for length in lengths if length.isdecimal()):
        return RefusedError(413, f"a request has at most {MAX_BODY_BYTES} bytes")
    return None

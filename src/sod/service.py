"""An HTTP service that may fail, asked with patience: tries with growing pauses, a circuit breaker, a time limit each.

To be called from the process's event loop (`sod.asynchronous`) alone. The key comes from the environment, goes into the
request's header and is cut out of whatever is shown; a redirect is not followed and `.netrc` is not read, so that no
other host is shown it. Of the environment's settings an https service is reached by those that do not show it either:
HTTPS_PROXY and NO_PROXY (a tunnel), SSL_CERT_FILE and SSL_CERT_DIR (one's own authorities). http goes straight there.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeVar, final
from urllib.request import getproxies, proxy_bypass

import httpx

from sod.breaker import Breaker
from sod.records import Fault, FaultKind, SodError
from sod.seeds import derive

Answer = TypeVar("Answer")

CONNECT_SECONDS = 10.0
KEPT_IDLE_SECONDS = 2.0
"""How long a connection is kept without a request. Servers close theirs after 5 s (uvicorn, Node.js): a request that is
sent at that moment is lost, and looks like the end of the server.
"""
NO_REASON = "All connection attempts failed"  # says the HTTP client of all that it could not reach
SHOWN_CHARS = 200  # of what the service said, in a fault's detail
TRANSIENT_CODES = frozenset({408, 409, 425, 429})  # besides every 5xx
DENIED_CODES = frozenset({401, 403})
_KEY = re.compile(r"[!-~]+")  # what a header can carry, without spaces


@final
@dataclass(frozen=True)
class Patience:
    """How a service is asked: `seconds` bound a request, `attempts` count its tries.

    The pause after the k-th failure is `backoff_seconds * 2**(k-1)`, at most `backoff_max_seconds`, times a factor in
    [0.5, 1). After `breaker_failures` failures in a row no request is sent for `breaker_seconds`, then one on trial.
    """

    seconds: float
    attempts: int
    backoff_seconds: float
    backoff_max_seconds: float
    breaker_failures: int
    breaker_seconds: float

    @property
    def longest_seconds(self) -> float:
        """What an answer may take, all tries and pauses together."""
        return self.attempts * (self.seconds + self.backoff_max_seconds)


@final
class Service:
    """The service at `url`, which faults name by the recipe's key `name`.

    `variable` is the environment variable that holds its key. Raises SodError for a key that cannot be sent, and for
    certificates or a proxy of the environment that cannot be used.
    """

    def __init__(
        self, name: str, url: str, variable: str, patience: Patience, connections: int = 100, seed: int = 0
    ) -> None:
        self.url = url
        self.outages = 0  # requests that broke, or that a proxy answered for a service that was not there
        self._name = name
        self._variable = variable
        self._patience = patience
        self._connections = connections
        self._seed = seed
        self._numbers = itertools.count()
        self._key = key_from_environment(variable)
        self._trusted, self._proxy = trusted(url), proxy_of(url)
        self._breaker = Breaker(patience.breaker_failures, patience.breaker_seconds)
        self._client: httpx.AsyncClient | None = None

    async def ask(
        self,
        path: str,
        body: bytes,
        read: Callable[[bytes], Awaitable[Answer | Fault]],
        most_bytes: int,
        before: Callable[[], None] = lambda: None,
        attempts: int | None = None,
    ) -> Answer | Fault:
        """What `read` makes of the answer to `POST url/path`; else the fault of the last try, which is final.

        Up to `most_bytes` are read. `before` is called before each request goes out, and may raise. An open breaker
        uses up a try. `attempts` bounds the tries of this question where it is fewer than all others have.
        """
        number = next(self._numbers)
        fault: Fault | None = None
        asked_to_wait = 0.0
        for attempt in range(min(attempts or self._patience.attempts, self._patience.attempts)):
            if attempt:
                await asyncio.sleep(max(backoff(self._patience, self._seed, number, attempt), asked_to_wait))
            refusal = self._breaker.refusal()
            if refusal is not None:
                fault = fault or refusal
                continue
            outcome, asked_to_wait = await self._attempt(path, body, read, most_bytes, before)
            if not isinstance(outcome, Fault):
                return outcome
            fault = outcome
            if not fault.retryable:
                break
        assert fault is not None  # there is at least one attempt
        return Fault(fault.kind, fault.detail, False)  # it was tried as often as the recipe says

    async def get(self, path: str) -> httpx.Response:
        """The answer to `GET url/path`, tried once. Raises httpx's errors."""
        return await self._opened().get(self._address(path), timeout=min(self._patience.seconds, CONNECT_SECONDS))

    async def close(self) -> None:
        """Close the connections. Safe to call twice."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def fault(self, kind: FaultKind, detail: str, retryable: bool = True) -> Fault:
        """A fault that names the service."""
        return Fault(kind, f"{self._name}: {self.url}: {detail}", retryable)

    def shown(self, text: str) -> str:
        """The beginning of a text that may hold anything, without our key."""
        hidden = text.replace(self._key, "***") if self._key else text
        return repr(hidden[:SHOWN_CHARS])

    async def _attempt(
        self,
        path: str,
        body: bytes,
        read: Callable[[bytes], Awaitable[Answer | Fault]],
        most_bytes: int,
        before: Callable[[], None],
    ) -> tuple[Answer | Fault, float]:
        """One request, the breaker told how it went; and the seconds we are asked to wait."""
        try:
            before()
            reply, asked_to_wait = await self._send(path, body, most_bytes)
            outcome = reply if isinstance(reply, Fault) else await read(reply)
        except BaseException:
            self._breaker.abandoned()
            raise
        if isinstance(outcome, Fault) and outcome.retryable:
            self._breaker.failed(outcome)
        else:  # a refusal of this one question says that the service is well
            self._breaker.succeeded()
        return outcome, asked_to_wait

    async def _send(self, path: str, body: bytes, most_bytes: int) -> tuple[bytes | Fault, float]:
        """The body of a good answer (HTTP 200), within the time limit; and the seconds we are asked to wait."""
        seconds, answered = self._patience.seconds, False  # from its header on, what breaks is the answer
        client = self._opened()  # reading certificates is not the service's time
        try:
            async with (
                asyncio.timeout(seconds),
                client.stream("POST", self._address(path), content=body) as response,
            ):
                answered = True
                data = bytearray()
                async for chunk in response.aiter_bytes():  # a proxy may compress what it was asked not to
                    data += chunk
                    if len(data) > most_bytes:
                        return self.fault(FaultKind.BAD_REPLY, f"more than {most_bytes} bytes"), 0.0
        except httpx.ConnectTimeout:
            self.outages += 1
            return self.fault(FaultKind.UNREACHABLE, f"no connection within {CONNECT_SECONDS:g} s"), 0.0
        except (TimeoutError, httpx.TimeoutException):
            return self.fault(FaultKind.TIMEOUT, f"no complete answer within {seconds:g} s"), 0.0
        except (httpx.HTTPError, OSError) as error:
            self.outages += 1
            kind = FaultKind.BAD_REPLY if answered else FaultKind.UNREACHABLE
            return self.fault(kind, self.why(error)), 0.0
        if response.status_code == httpx.codes.OK:
            return bytes(data), 0.0
        return self._refused(response, bytes(data)), self._asked_to_wait(response)

    def _refused(self, response: httpx.Response, data: bytes) -> Fault:
        """The fault of an answer other than HTTP 200."""
        code = response.status_code
        transient = code >= 500 or code in TRANSIENT_CODES
        self.outages += code >= 500
        fix = f"; set the environment variable {self._variable}" if code in DENIED_CODES else ""
        if response.is_redirect:
            there = self.shown(response.headers["location"])
            fix = f"; redirects to {there}, which is not followed: set the url to that"
        said = self.shown(data.decode("utf-8", "replace"))
        return self.fault(FaultKind.SERVER, f"HTTP {code}: {said}{fix}", transient)

    def _asked_to_wait(self, response: httpx.Response) -> float:
        """`Retry-After` in seconds, at most as long as we would ever wait; 0 where there is none."""
        return min(seconds_in(response.headers.get("retry-after", "")), self._patience.backoff_max_seconds)

    def why(self, error: Exception) -> str:
        """What broke a connection, in a few words, without our key."""
        said = str(error)
        if "CERTIFICATE_VERIFY_FAILED" in said:
            return (
                "its certificate is signed by nobody known here; name the file of its authority in the environment "
                "variable SSL_CERT_FILE"
            )
        return type(error).__name__ if said in ("", NO_REASON) else f"{type(error).__name__}: {self.shown(said)}"

    def _address(self, path: str) -> httpx.URL:
        return httpx.URL(f"{self.url}/").join(path)

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            given = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            self._client = httpx.AsyncClient(
                timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),  # `_send` bounds the whole
                limits=httpx.Limits(max_connections=self._connections, keepalive_expiry=KEPT_IDLE_SECONDS),
                headers={**given, "Accept-Encoding": "identity", "Content-Type": "application/json"},
                verify=self._trusted,
                proxy=self._proxy,
                trust_env=False,
                follow_redirects=False,
            )
        return self._client


def backoff(patience: Patience, seed: int, number: int, attempt: int) -> float:
    """Seconds before question `number` is sent again after `attempt` failures: doubled each time, times 0.5 to 1."""
    pause = min(patience.backoff_max_seconds, patience.backoff_seconds * 2.0 ** (attempt - 1))
    return pause * (0.5 + derive(seed, "backoff", number, attempt) / 2**64)


def seconds_in(retry_after: str) -> float:
    """What a `Retry-After` header asks for, in seconds or as a date; 0 where it says nothing."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def trusted(url: str) -> ssl.SSLContext | bool:
    """Whom an https service's certificate may be signed by: those of SSL_CERT_FILE and SSL_CERT_DIR, else all known.

    Raises SodError where they cannot be read.
    """
    file, folder = (os.environ.get(name) or None for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
    if not url.startswith("https://") or not (file or folder):
        return True
    try:
        return ssl.create_default_context(cafile=file, capath=folder)
    except (OSError, ssl.SSLError) as error:
        raise SodError(f"SSL_CERT_FILE={file}: cannot be read as certificates ({error}); name a PEM file") from error


def proxy_of(url: str) -> str | None:
    """The proxy through which an https service is reached; None for none. Raises SodError for one of another kind."""
    proxy = getproxies().get("https") or getproxies().get("all")
    if not url.startswith("https://") or not proxy or proxy_bypass(httpx.URL(url).netloc.decode()):
        return None
    if not proxy.startswith(("http://", "https://")):
        raise SodError(
            "HTTPS_PROXY: only http:// and https:// proxies are used; set another, or name the host in NO_PROXY"
        )
    return proxy


def key_from_environment(variable: str) -> str:
    """The key in an environment variable, empty where there is none. Raises SodError, without the key, for no key."""
    key = os.environ.get(variable, "").strip()
    if key and not _KEY.fullmatch(key):
        raise SodError(f"{variable}: a key has printable ASCII characters alone, without spaces; set another")
    return key

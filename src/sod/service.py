"""An HTTP service that may fail, asked with patience: tries with growing pauses, a circuit breaker, a time limit each.

To be called from the process's event loop (`sod.asynchronous`) alone. The key comes from the environment, goes into the
request's header and is cut out of whatever is shown; a redirect is not followed, and neither proxies nor `.netrc` are
used, so that no other host is shown it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar, final

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

    `variable` is the environment variable that holds its key. Raises SodError for a key that cannot be sent.
    """

    def __init__(
        self, name: str, url: str, variable: str, patience: Patience, connections: int = 100, seed: int = 0
    ) -> None:
        self.url = url
        self._name = name
        self._variable = variable
        self._patience = patience
        self._connections = connections
        self._seed = seed
        self._numbers = itertools.count()
        self._key = key_from_environment(variable)
        self._breaker = Breaker(patience.breaker_failures, patience.breaker_seconds)
        self._client: httpx.AsyncClient | None = None

    async def ask(
        self,
        path: str,
        body: bytes,
        read: Callable[[bytes], Awaitable[Answer | Fault]],
        most_bytes: int,
        before: Callable[[], None] = lambda: None,
    ) -> Answer | Fault:
        """What `read` makes of the answer to `POST url/path`; else the fault of the last try, which is final.

        Up to `most_bytes` are read. `before` is called before each request goes out, and may raise. An open breaker
        uses up a try.
        """
        number = next(self._numbers)
        fault: Fault | None = None
        asked_to_wait = 0.0
        for attempt in range(self._patience.attempts):
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
        return await self._opened().get(f"{self.url}/{path}", timeout=min(self._patience.seconds, CONNECT_SECONDS))

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
        if isinstance(outcome, Fault):
            self._breaker.failed(outcome)
        else:
            self._breaker.succeeded()
        return outcome, asked_to_wait

    async def _send(self, path: str, body: bytes, most_bytes: int) -> tuple[bytes | Fault, float]:
        """The body of a good answer (HTTP 200), within the time limit; and the seconds we are asked to wait."""
        seconds, answered = self._patience.seconds, False  # from its header on, what breaks is the answer
        try:
            async with (
                asyncio.timeout(seconds),
                self._opened().stream("POST", f"{self.url}/{path}", content=body) as response,
            ):
                answered = True
                data = bytearray()
                async for chunk in response.aiter_raw():
                    data += chunk
                    if len(data) > most_bytes:
                        return self.fault(FaultKind.BAD_REPLY, f"more than {most_bytes} bytes"), 0.0
        except httpx.ConnectTimeout:
            return self.fault(FaultKind.UNREACHABLE, f"no connection within {CONNECT_SECONDS:g} s"), 0.0
        except (TimeoutError, httpx.TimeoutException):
            return self.fault(FaultKind.TIMEOUT, f"no complete answer within {seconds:g} s"), 0.0
        except (httpx.HTTPError, OSError) as error:
            kind = FaultKind.BAD_REPLY if answered else FaultKind.UNREACHABLE
            return self.fault(kind, f"{type(error).__name__}: {self.shown(str(error))}"), 0.0
        if response.status_code == httpx.codes.OK:
            return bytes(data), 0.0
        return self._refused(response, bytes(data)), self._asked_to_wait(response)

    def _refused(self, response: httpx.Response, data: bytes) -> Fault:
        """The fault of an answer other than HTTP 200."""
        code = response.status_code
        transient = code >= 500 or code in TRANSIENT_CODES
        fix = f"; set the environment variable {self._variable}" if code in DENIED_CODES else ""
        said = self.shown(data.decode("utf-8", "replace"))
        return self.fault(FaultKind.SERVER, f"HTTP {code}: {said}{fix}", transient)

    def _asked_to_wait(self, response: httpx.Response) -> float:
        """`Retry-After` in seconds, at most as long as we would ever wait; 0 where there is none."""
        asked = response.headers.get("retry-after", "")
        return min(float(asked), self._patience.backoff_max_seconds) if asked.isdecimal() else 0.0

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            given = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            self._client = httpx.AsyncClient(
                timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),  # `_send` bounds the whole
                limits=httpx.Limits(max_connections=self._connections, keepalive_expiry=KEPT_IDLE_SECONDS),
                headers={**given, "Accept-Encoding": "identity", "Content-Type": "application/json"},
                trust_env=False,
                follow_redirects=False,
            )
        return self._client


def backoff(patience: Patience, seed: int, number: int, attempt: int) -> float:
    """Seconds before question `number` is sent again after `attempt` failures: doubled each time, times 0.5 to 1."""
    pause = min(patience.backoff_max_seconds, patience.backoff_seconds * 2.0 ** (attempt - 1))
    return pause * (0.5 + derive(seed, "backoff", number, attempt) / 2**64)


def key_from_environment(variable: str) -> str:
    """The key in an environment variable, empty where there is none. Raises SodError, without the key, for no key."""
    key = os.environ.get(variable, "").strip()
    if key and not _KEY.fullmatch(key):
        raise SodError(f"{variable}: a key has printable ASCII characters alone, without spaces; set another")
    return key

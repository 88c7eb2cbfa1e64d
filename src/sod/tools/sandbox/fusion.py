"""Client of a SandboxFusion service (arXiv 2412.00535; the SOD paper's sandbox): programs run on another machine.

One event loop in a thread of its own does all the requests; `execute` may be called from any thread.
How a reply is understood is in `fusion_reply.py`; what a service is shown in `credentials.py`. A redirect
is not followed but is a fault, so that no other host is shown it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import httpx

from sod.breaker import Breaker
from sod.recipe import refuse_key_in_url
from sod.records import Execution, Fault, FaultKind, Program, SodError
from sod.seeds import derive
from sod.service import KEPT_IDLE_SECONDS
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.credentials import Credentials, credentials_from_environment
from sod.tools.sandbox.fusion_reply import SHOWN_CHARS, read_reply, request_body, shown
from sod.tools.sandbox.local import limits_of

TRANSIENT_CODES = frozenset({408, 425, 429})  # besides every 5xx
ERROR_BYTES = 64 << 10  # looked at of an answer other than HTTP 200


@final
@dataclass(frozen=True)
class FusionOptions:
    """How the service is asked.

    A request may take the program's time limit plus `grace_seconds`, the waiting for a free worker
    over there included: `concurrency` far above the service's workers makes time-outs. After a
    failure the k-th pause is `backoff_seconds * 2**(k-1)`, at most `backoff_max_seconds`, times a
    factor in [0.5, 1) that is a function of `seed`. After `breaker_failures` failed requests in a row
    none is sent for `breaker_seconds`; then one goes out on trial. Seconds are wall clock.
    """

    concurrency: int = 32
    connect_seconds: float = 5.0
    grace_seconds: float = 15.0
    attempts: int = 4
    backoff_seconds: float = 0.5
    backoff_max_seconds: float = 8.0
    breaker_failures: int = 20
    breaker_seconds: float = 10.0
    max_reply_bytes: int = 32 << 20
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.concurrency, self.attempts, self.breaker_failures, self.max_reply_bytes) < 1:
            raise ValueError(f"counts must be at least 1: {self}")
        if min(self.connect_seconds, self.grace_seconds) <= 0:
            raise ValueError(f"time-outs must be positive: {self}")
        if min(self.backoff_seconds, self.backoff_max_seconds, self.breaker_seconds) < 0:
            raise ValueError(f"pauses must not be negative: {self}")


@final
class FusionSandbox:
    """The programs go to `POST {url}/run_code`. Nothing is asked before the first `execute`.

    A key and headers for the service come from the environment; a proxy that it names is not used.
    Raises SodError for a url that is none or has a key in it, and for a key or headers that cannot be sent.
    """

    def __init__(
        self,
        url: str,
        limits: ProgramLimits = ProgramLimits(),  # noqa: B008  # frozen
        options: FusionOptions = FusionOptions(),
    ) -> None:
        self.limits = limits
        self._endpoint = _endpoint(url)
        self._credentials = credentials_from_environment()
        self._options = options
        self._numbers = itertools.count()
        self._breaker = Breaker(options.breaker_failures, options.breaker_seconds)
        # A client per place, of one connection: a shared pool's time per request grows with their square.
        trust = httpx.create_ssl_context(trust_env=False)
        self._clients = [_client(options, trust, self._credentials) for _ in range(options.concurrency)]
        self._idle: asyncio.LifoQueue[httpx.AsyncClient] = asyncio.LifoQueue()
        for client in self._clients:
            self._idle.put_nowait(client)
        self._lock = threading.Lock()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sandbox-fusion", daemon=True)
        self._thread.start()

    @property
    def isolation(self) -> Mapping[str, bool]:
        """`remote` only: what the service keeps from the programs cannot be seen from here."""
        return {"remote": True}

    def execute(self, programs: Sequence[Program]) -> list[Execution | Fault]:
        """Run every program; see `Sandbox.execute`.

        Raises ValueError for file names that leave the working directory, and limits that are not positive.
        """
        requests = [(program, limits_of(program, self.limits)) for program in programs]
        closed = Fault(FaultKind.SANDBOX, "the sandbox is closed", retryable=False)
        with self._lock:
            if self._closed:
                return [closed] * len(programs)
            future = asyncio.run_coroutine_threadsafe(self._run_all(requests), self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:  # by `close`
            return [closed] * len(programs)
        except BaseException:  # an interrupt
            future.cancel()
            raise

    def close(self) -> None:
        """Give up what is under way, close the connections. Safe to call twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for client in self._clients:
            await client.aclose()

    async def _run_all(self, requests: Sequence[tuple[Program, ProgramLimits]]) -> list[Execution | Fault]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._run(program, limits)) for program, limits in requests]
        return [task.result() for task in tasks]

    async def _run(self, program: Program, limits: ProgramLimits) -> Execution | Fault:
        """Ask until there is an execution, or no attempt is left, or the breaker is open."""
        client = await self._idle.get()
        try:
            number, fault = next(self._numbers), None
            body = request_body(program, limits)
            for attempt in range(self._options.attempts):
                if attempt:
                    await asyncio.sleep(backoff(self._options, number, attempt))
                refusal = self._breaker.refusal()
                if refusal is not None:
                    return fault or refusal
                outcome = await self._attempt(client, program, limits, body)
                if isinstance(outcome, Execution):
                    return outcome
                fault = outcome
                if not fault.retryable:
                    break
            assert fault is not None  # there is at least one attempt
            return fault
        finally:
            self._idle.put_nowait(client)

    async def _attempt(
        self, client: httpx.AsyncClient, program: Program, limits: ProgramLimits, body: bytes
    ) -> Execution | Fault:
        """One request, and the breaker told how it went."""
        try:
            answer = await self._send(client, body, limits.seconds + self._options.grace_seconds)
        except BaseException:
            self._breaker.abandoned()
            raise
        outcome = answer if isinstance(answer, Fault) else read_reply(answer, program, limits, self._credentials)
        if isinstance(outcome, Fault):
            self._breaker.failed(outcome)
        else:
            self._breaker.succeeded()
        return outcome

    async def _send(self, client: httpx.AsyncClient, body: bytes, seconds: float) -> bytes | Fault:
        """The body of a good answer (HTTP 200), within so many seconds and bytes."""
        answered = False  # from its header on, what breaks is the answer
        try:
            async with (
                asyncio.timeout(seconds),
                client.stream("POST", self._endpoint, content=body) as response,
            ):
                answered = True
                data = bytearray()
                async for chunk in response.aiter_raw():
                    data += chunk
                    if len(data) > self._options.max_reply_bytes:
                        return Fault(FaultKind.BAD_REPLY, f"more than {self._options.max_reply_bytes} bytes")
        except httpx.ConnectTimeout:
            return Fault(FaultKind.UNREACHABLE, f"no connection within {self._options.connect_seconds:g} s")
        except (TimeoutError, httpx.TimeoutException):
            return Fault(FaultKind.TIMEOUT, f"no complete answer within {seconds:g} s")
        except (httpx.HTTPError, OSError) as error:
            kind = FaultKind.BAD_REPLY if answered else FaultKind.UNREACHABLE
            return Fault(kind, f"{type(error).__name__}: {self._credentials.hidden(str(error))[:SHOWN_CHARS]}")
        if response.status_code != httpx.codes.OK:
            said = shown(bytes(data[:ERROR_BYTES]).decode("utf-8", "replace"), self._credentials)
            transient = response.status_code >= 500 or response.status_code in TRANSIENT_CODES
            return Fault(FaultKind.SERVER, f"HTTP {response.status_code}: {said}", retryable=transient)
        return bytes(data)


def _client(options: FusionOptions, trust: ssl.SSLContext, credentials: Credentials) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        verify=trust,
        timeout=httpx.Timeout(None, connect=options.connect_seconds),  # `_send` bounds the whole
        limits=httpx.Limits(max_connections=1, keepalive_expiry=KEPT_IDLE_SECONDS),
        headers={**credentials.headers, "Accept-Encoding": "identity", "Content-Type": "application/json"},
        trust_env=False,
        follow_redirects=False,  # nobody but the service itself is shown the headers
    )


def backoff(options: FusionOptions, number: int, attempt: int) -> float:
    """Seconds before request `number` is sent again, after `attempt` failures."""
    pause = min(options.backoff_max_seconds, options.backoff_seconds * 2.0 ** (attempt - 1))
    return pause * (0.5 + derive(options.seed, "backoff", number, attempt) / 2**64)


def _endpoint(url: str) -> httpx.URL:
    try:
        refuse_key_in_url(url)
    except ValueError as error:
        raise SodError(str(error)) from None
    try:
        parsed = httpx.URL(url.rstrip("/") + "/run_code")
    except httpx.InvalidURL as error:
        raise SodError(f"sandbox: {url!r} is not a url: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise SodError(f"sandbox: {url!r} is not a url; name it like http://127.0.0.1:8080")
    return parsed

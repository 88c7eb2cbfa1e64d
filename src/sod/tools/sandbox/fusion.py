"""Client of a SandboxFusion service (arXiv 2412.00535; the SOD paper's sandbox): programs run on another machine.

One event loop in a thread of its own does all the requests; `execute` may be called from any thread.
The reply is untrusted: read up to a size, checked field by field. How a reply is understood:

- `SandboxError`, or a `run_result` of `Error` without an exit code: the service's own failure, whose
  text stands where a program's stderr would. A `Fault`; that text is never part of an `Execution`.
- `Failed`: the program's doing. `TimeLimitExceeded` is `timeout`; a traceback that ends in a
  `MemoryError`, or an end by signal 9 (exit code -9 or 137), is `memory`: a time limit is reported as
  such, so the kernel's out-of-memory killer is the usual sender. A program that kills itself that way
  is indistinguishable; a service that is short of memory as a whole would be blamed on its programs.
- `output_limit` is decided here, by the length of stdout; SandboxFusion itself cuts at 1 MiB silently.
- sod's own server names the status of a failed program in `message`, which SandboxFusion leaves empty.

Other differences from the local sandbox: `memory_mb` bounds the whole address space of the
interpreter there (and is ignored by a service that isolates with cgroups), processes and CPU seconds
are the service's affair, and what is kept from the programs cannot be seen from here.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import concurrent.futures
import itertools
import json
import re
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, final

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sod.records import Execution, ExecutionStatus, Fault, FaultKind, Program, SodError
from sod.seeds import derive
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.local import limits_of

KEEPALIVE_SECONDS = 4.0  # below the 5 s after which uvicorn closes an idle connection
TRANSIENT_CODES = frozenset({408, 425, 429})  # besides every 5xx
SHOWN_CHARS = 200  # of what the service said, in a fault's detail
FAILURES: Mapping[str, ExecutionStatus] = {
    "error": "error",
    "timeout": "timeout",
    "memory": "memory",
    "output_limit": "output_limit",
}
_SURROGATE = re.compile("[\ud800-\udfff]")
_MEMORY_ERROR = re.compile(r"[\w.]*MemoryError\b")


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


class _Result(BaseModel):
    """SandboxFusion's CommandRunResult."""

    model_config = ConfigDict(strict=True, frozen=True)

    status: Literal["Finished", "Error", "TimeLimitExceeded"]
    execution_time: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    return_code: Annotated[int, Field(ge=-(2**31), lt=2**32)] | None = None
    stdout: str | None = None
    stderr: str | None = None


class _Reply(BaseModel):
    """SandboxFusion's RunCodeResponse."""

    model_config = ConfigDict(strict=True, frozen=True)

    status: Literal["Success", "Failed", "SandboxError"]
    message: str
    compile_result: _Result | None = None
    run_result: _Result | None = None
    executor_pod_name: str | None = None
    files: dict[str, str] = Field(default_factory=dict)


@final
class FusionSandbox:
    """The programs go to `POST {url}/run_code`. Nothing is asked before the first `execute`.

    A proxy that the environment names is not used. Raises SodError for a url that is none.
    """

    def __init__(
        self,
        url: str,
        limits: ProgramLimits = ProgramLimits(),  # noqa: B008  # frozen
        options: FusionOptions = FusionOptions(),
    ) -> None:
        self.limits = limits
        self._endpoint = _endpoint(url)
        self._options = options
        self._numbers = itertools.count()
        self._breaker = _Breaker(options.breaker_failures, options.breaker_seconds)
        # A client per place, of one connection: a shared pool's time per request grows with their square.
        trust = httpx.create_ssl_context(trust_env=False)
        self._clients = [_client(options, trust) for _ in range(options.concurrency)]
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
        outcome = answer if isinstance(answer, Fault) else read_reply(answer, program, limits)
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
            return Fault(kind, f"{type(error).__name__}: {str(error)[:SHOWN_CHARS]}")
        if response.status_code != httpx.codes.OK:
            shown = bytes(data[:SHOWN_CHARS]).decode("utf-8", "replace")
            transient = response.status_code >= 500 or response.status_code in TRANSIENT_CODES
            return Fault(FaultKind.SERVER, f"HTTP {response.status_code}: {shown!r}", retryable=transient)
        return bytes(data)


@final
class _Breaker:
    """Counts failures in a row over all threads' requests; used from the event loop only.

    `seconds` after it opened one request is let through: if that succeeds it closes, else it stays
    open for as long again.
    """

    def __init__(self, failures: int, seconds: float) -> None:
        self._failures = failures
        self._seconds = seconds
        self._in_a_row = 0
        self._last: Fault | None = None
        self._opened: float | None = None
        self._on_trial = False

    def refusal(self) -> Fault | None:
        """None where a request may go out now, else the fault to answer with."""
        if self._opened is None or self._last is None:
            return None
        if not self._on_trial and time.monotonic() >= self._opened + self._seconds:
            self._on_trial = True
            return None
        detail = f"not asked: {self._in_a_row} requests failed in a row, the last: {self._last.detail}"
        return Fault(self._last.kind, detail, self._last.retryable)

    def succeeded(self) -> None:
        self._in_a_row, self._opened, self._on_trial = 0, None, False

    def failed(self, fault: Fault) -> None:
        self._in_a_row += 1
        self._last, self._on_trial = fault, False
        if self._in_a_row >= self._failures:
            self._opened = time.monotonic()

    def abandoned(self) -> None:
        """A request was given up by us: says nothing, and if it was the trial the next may be it."""
        self._on_trial = False


def _client(options: FusionOptions, trust: ssl.SSLContext) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        verify=trust,
        timeout=httpx.Timeout(None, connect=options.connect_seconds),  # `_send` bounds the whole
        limits=httpx.Limits(max_connections=1, keepalive_expiry=KEEPALIVE_SECONDS),
        headers={"Accept-Encoding": "identity", "Content-Type": "application/json"},
        trust_env=False,
    )


def backoff(options: FusionOptions, number: int, attempt: int) -> float:
    """Seconds before request `number` is sent again, after `attempt` failures."""
    pause = min(options.backoff_max_seconds, options.backoff_seconds * 2.0 ** (attempt - 1))
    return pause * (0.5 + derive(options.seed, "backoff", number, attempt) / 2**64)


def request_body(program: Program, limits: ProgramLimits) -> bytes:
    """SandboxFusion's RunCodeRequest.

    Lone surrogates, which a model can write as JSON escapes, are no valid request: they become U+FFFD.
    """
    request = {
        "code": _encodable(program.source),
        "language": "python",
        "compile_timeout": limits.seconds,
        "run_timeout": limits.seconds,
        "memory_limit_MB": limits.memory_mb,
        "stdin": _encodable(program.stdin),
        "files": {name: base64.b64encode(content).decode() for name, content in program.files.items()},
        "fetch_files": list(program.fetch),
    }
    return json.dumps(request).encode()


def read_reply(data: bytes, program: Program, limits: ProgramLimits) -> Execution | Fault:
    """What a reply says; see the top of the module. A contradictory reply is a BAD_REPLY."""
    try:
        reply = _Reply.model_validate_json(data)
        files = {name: base64.b64decode(reply.files[name], validate=True) for name in _fetched(reply, program)}
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "reply"
        return Fault(FaultKind.BAD_REPLY, f"{where}: {first['msg'][:SHOWN_CHARS]}")
    except (binascii.Error, ValueError) as error:
        return Fault(FaultKind.BAD_REPLY, f"files: {error}")
    if reply.status == "SandboxError":
        return Fault(FaultKind.SERVER, f"SandboxError: {reply.message[:SHOWN_CHARS]!r}")
    result = reply.run_result or reply.compile_result
    if result is None or (reply.status == "Success" and reply.run_result is None):
        return Fault(FaultKind.BAD_REPLY, f"{reply.status} without a run_result")
    if result.status == "Error" and not result.return_code:
        return Fault(FaultKind.SERVER, f"run_result of Error: {(result.stderr or '')[:SHOWN_CHARS]!r}")
    stopped = result.status == "TimeLimitExceeded"
    if not stopped and result.return_code is None:
        return Fault(FaultKind.BAD_REPLY, "no return_code")
    if (reply.status == "Success") != (not stopped and result.return_code == 0):
        return Fault(FaultKind.BAD_REPLY, f"{reply.status} with return_code {result.return_code}, {result.status}")
    status, why = _status(reply, result, limits)
    return Execution(
        status,
        (result.stdout or "")[: limits.output_chars],
        _ending_in(result.stderr or "", why)[-limits.output_chars :],
        result.execution_time or 0.0,
        result.return_code if status in ("ok", "error") else None,
        files,
    )


def _status(reply: _Reply, result: _Result, limits: ProgramLimits) -> tuple[ExecutionStatus, str]:
    """The status, and the line that explains it where the program's stderr does not."""
    if len(result.stdout or "") > limits.output_chars:
        return "output_limit", f"more than {limits.output_chars} characters of output"
    if reply.status == "Success":
        return "ok", ""
    if reply.message in FAILURES:  # sod's own server, whose stderr ends in the explanation
        return FAILURES[reply.message], ""
    if result.status == "TimeLimitExceeded":
        return "timeout", f"stopped after {limits.seconds:g} s"
    code = result.return_code or 0
    last = (result.stderr or "").strip().splitlines()[-1:]
    if code in (-9, 137) or any(_MEMORY_ERROR.match(line) for line in last):
        return "memory", f"more than {limits.memory_mb} MiB"
    if code < 0 or 128 < code <= 128 + 64:
        return "error", f"process killed by signal {-code if code < 0 else code - 128}"
    return "error", "" if last else f"process exited with status {code}"


def _ending_in(stderr: str, line: str) -> str:
    """`stderr` with `line` as its last line, where there is one to add."""
    text = stderr.rstrip("\n")
    if not line or text.splitlines()[-1:] == [line]:
        return stderr
    return f"{text}\n{line}\n" if text else f"{line}\n"


def _fetched(reply: _Reply, program: Program) -> list[str]:
    return [name for name in program.fetch if name in reply.files]


def _encodable(text: str) -> str:
    return _SURROGATE.sub("\ufffd", text)


def _endpoint(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url.rstrip("/") + "/run_code")
    except httpx.InvalidURL as error:
        raise SodError(f"sandbox: {url!r} is not a url: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise SodError(f"sandbox: {url!r} is not a url; name it like http://127.0.0.1:8080")
    return parsed

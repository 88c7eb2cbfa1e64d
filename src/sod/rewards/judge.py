"""A judge model as a reward: an OpenAI-compatible service that grades episodes from 0 to 1.

What is asked stands in `judge_question.py`. The same question is asked once, ever: answers are kept on disk. Requests
are sent again after a failure, with growing pauses; after many failures in a row the service is left alone for a while.
A budget of requests and tokens bounds what a run can cost. The key comes from the environment alone; a redirect is not
followed, and neither proxies nor `.netrc` are used, so that no other host is shown it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, final
from weakref import WeakValueDictionary

import httpx

from sod.asynchronous import loop_thread
from sod.breaker import Breaker
from sod.recipe import JudgeSpec
from sod.recipe.keys.judge import KEY_VARIABLE
from sod.records import Episode, Fault, FaultKind, SodError
from sod.rewards.judge_cache import AnswerCache, content_key, default_folder
from sod.rewards.judge_question import grade_in, request_of
from sod.seeds import derive

CONNECT_SECONDS = 10.0
MAX_REPLY_BYTES = 8 << 20
SHOWN_CHARS = 200  # of what the service said, in a fault's detail
CHARS_PER_TOKEN = 4  # where the service does not say what it used
TRANSIENT_CODES = frozenset({408, 409, 425, 429})  # besides every 5xx
DENIED_CODES = frozenset({401, 403})
_KEY = re.compile(r"[!-~]+")  # what a header can carry, without spaces


@final
class Judge:
    """Grades an episode when called; to be called from the process's event loop (`sod.asynchronous`) alone.

    `requests`, `tokens` and `kept` are what it has sent, used, and found in its cache. Raises SodError for a key that
    cannot be sent and a cache that cannot be written.
    """

    def __init__(self, spec: JudgeSpec, seed: int = 0) -> None:
        self._spec = spec
        self._seed = seed
        self._numbers = itertools.count()
        self._key = _key_from_environment()
        self._cache = AnswerCache(Path(spec.cache).expanduser() if spec.cache else default_folder())
        self._breaker = Breaker(spec.breaker_failures, spec.breaker_seconds)
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._client: httpx.AsyncClient | None = None
        self.requests = self.tokens = self.kept = 0

    @property
    def spent(self) -> str:
        """What it has cost so far, in words."""
        return f"{self.requests:,} requests, {self.tokens:,} tokens; {self.kept:,} answers were known before"

    @property
    def longest_seconds(self) -> float:
        """What a call may take, with a wait for the same question of another episode."""
        return 2.0 * self._spec.attempts * (self._spec.seconds + self._spec.backoff_max_seconds)

    async def __call__(self, episode: Episode) -> float | Fault:
        """The grade of an episode, from 0 to 1. Raises SodError where the budget is spent."""
        request = request_of(self._spec, episode)
        key = content_key(self._spec.url, request)
        asking = self._asking.setdefault(key, asyncio.Lock())
        async with asking:  # the samples of a task are often alike
            kept = self._cache.get(key)
            answer = await self._answer(request) if kept is None else kept
            if isinstance(answer, Fault):
                return replace(answer, retryable=False)  # it was tried as often as the recipe says
            grade = grade_in(answer, self._spec.best)
            if grade is None:
                return self._ungraded(answer)
            if kept is None:
                self._cache.put(key, self._spec.model, answer)
            else:
                self.kept += 1
            return grade

    def refuse_unreachable(self) -> None:
        """Raises SodError where nobody answers at the url, or our key is not accepted there: before a run begins."""
        loop_thread().run(self._looked_up())

    async def _looked_up(self) -> None:
        """Ask for the list of models, which costs nothing; whatever the answer is, there is a service."""
        url = f"{self._spec.url}/models"
        try:
            response = await self._opened().get(url, timeout=min(self._spec.seconds, CONNECT_SECONDS))
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise SodError(
                f"reward.judge.url={self._spec.url}: cannot be reached ({type(error).__name__}: {error}); start the "
                "service, or correct the url"
            ) from error
        except httpx.HTTPError:  # busy, or it has no such list: the first question will tell
            return
        if response.status_code in DENIED_CODES:
            raise SodError(
                f"reward.judge.url={self._spec.url}: HTTP {response.status_code}; set the environment variable "
                f"{KEY_VARIABLE} to a key that it accepts"
            )

    def close(self) -> None:
        """Close the connections. Safe to call twice."""
        client, self._client = self._client, None
        if client is not None:
            loop_thread().run(client.aclose())

    def _ungraded(self, answer: str) -> Fault:
        said = self._shown(answer[-SHOWN_CHARS:])
        wanted = f"no line `Score: N` from 0 to {self._spec.best}"
        return Fault(FaultKind.BAD_REPLY, f"reward.judge: {self._spec.model} ended with {wanted}: {said}", False)

    async def _answer(self, request: dict[str, Any]) -> str | Fault:
        """Ask until there is an answer, or no attempt is left, or the breaker is open."""
        number, body = next(self._numbers), json.dumps(request).encode()
        fault: Fault | None = None
        asked_to_wait = 0.0
        for attempt in range(self._spec.attempts):
            if attempt:
                await asyncio.sleep(max(backoff(self._spec, self._seed, number, attempt), asked_to_wait))
            refusal = self._breaker.refusal()
            if refusal is not None:
                return fault or refusal
            outcome, asked_to_wait = await self._attempt(body)
            if isinstance(outcome, str):
                return outcome
            fault = outcome
            if not fault.retryable:
                break
        assert fault is not None  # there is at least one attempt
        return fault

    async def _attempt(self, body: bytes) -> tuple[str | Fault, float]:
        """One request within the budget, the breaker told how it went; and the seconds we are asked to wait."""
        try:
            self._spend_a_request()
            reply, asked_to_wait = await self._send(body)
        except BaseException:
            self._breaker.abandoned()
            raise
        outcome = reply if isinstance(reply, Fault) else self._read(reply, len(body))
        if isinstance(outcome, Fault):
            self._breaker.failed(outcome)
        else:
            self._breaker.succeeded()
        return outcome, asked_to_wait

    def _spend_a_request(self) -> None:
        for key, used, allowed in (
            ("max_calls", self.requests, self._spec.max_calls),
            ("max_tokens", self.tokens, self._spec.max_tokens),
        ):
            if used >= allowed:
                raise SodError(
                    f"reward.judge: the budget is spent ({self.spent}); raise reward.judge.{key}={allowed} and resume "
                    "the run"
                )
        self.requests += 1

    async def _send(self, body: bytes) -> tuple[bytes | Fault, float]:
        """The body of a good answer (HTTP 200), within the time limit; and the seconds we are asked to wait."""
        seconds, answered = self._spec.seconds, False  # from its header on, what breaks is the answer
        try:
            async with (
                asyncio.timeout(seconds),
                self._opened().stream("POST", self._endpoint, content=body) as response,
            ):
                answered = True
                data = bytearray()
                async for chunk in response.aiter_raw():
                    data += chunk
                    if len(data) > MAX_REPLY_BYTES:
                        return self._fault(FaultKind.BAD_REPLY, f"more than {MAX_REPLY_BYTES} bytes"), 0.0
        except httpx.ConnectTimeout:
            return self._fault(FaultKind.UNREACHABLE, f"no connection within {CONNECT_SECONDS:g} s"), 0.0
        except (TimeoutError, httpx.TimeoutException):
            return self._fault(FaultKind.TIMEOUT, f"no complete answer within {seconds:g} s"), 0.0
        except (httpx.HTTPError, OSError) as error:
            kind = FaultKind.BAD_REPLY if answered else FaultKind.UNREACHABLE
            return self._fault(kind, f"{type(error).__name__}: {self._shown(str(error))}"), 0.0
        if response.status_code == httpx.codes.OK:
            return bytes(data), 0.0
        return self._refused(response, bytes(data)), self._asked_to_wait(response)

    def _refused(self, response: httpx.Response, data: bytes) -> Fault:
        """The fault of an answer other than HTTP 200."""
        code = response.status_code
        transient = code >= 500 or code in TRANSIENT_CODES
        fix = f"; set the environment variable {KEY_VARIABLE}" if code in DENIED_CODES else ""
        said = self._shown(data.decode("utf-8", "replace"))
        return self._fault(FaultKind.SERVER, f"HTTP {code}: {said}{fix}", transient)

    def _asked_to_wait(self, response: httpx.Response) -> float:
        """`Retry-After` in seconds, at most as long as we would ever wait; 0 where there is none."""
        asked = response.headers.get("retry-after", "")
        return min(float(asked), self._spec.backoff_max_seconds) if asked.isdecimal() else 0.0

    def _read(self, reply: bytes, asked_bytes: int) -> str | Fault:
        """The text of the answer; what it cost is added up. The reply is untrusted."""
        try:
            content = json.loads(reply)
            text = content["choices"][0]["message"]["content"]
            usage = content.get("usage") or {}
            used = usage.get("total_tokens")
        except (ValueError, LookupError, TypeError, AttributeError):
            return self._fault(
                FaultKind.BAD_REPLY, f"no chat completion: {self._shown(reply.decode('utf-8', 'replace'))}"
            )
        text = text if isinstance(text, str) else ""  # null: all of it was thought
        about = (asked_bytes + len(text)) // CHARS_PER_TOKEN
        self.tokens += used if type(used) is int and used > 0 else about
        return text

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            given = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            self._client = httpx.AsyncClient(
                timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),  # `_send` bounds the whole
                limits=httpx.Limits(max_connections=self._spec.concurrency),
                headers={**given, "Accept-Encoding": "identity", "Content-Type": "application/json"},
                trust_env=False,
                follow_redirects=False,
            )
        return self._client

    @property
    def _endpoint(self) -> str:
        return f"{self._spec.url}/chat/completions"

    def _fault(self, kind: FaultKind, detail: str, retryable: bool = True) -> Fault:
        return Fault(kind, f"reward.judge: {self._spec.url}: {detail}", retryable)

    def _shown(self, text: str) -> str:
        """The beginning of a text that may hold anything, without our key."""
        hidden = text.replace(self._key, "***") if self._key else text
        return repr(hidden[:SHOWN_CHARS])


def backoff(spec: JudgeSpec, seed: int, number: int, attempt: int) -> float:
    """Seconds before question `number` is sent again after `attempt` failures: doubled each time, times 0.5 to 1."""
    pause = min(spec.backoff_max_seconds, spec.backoff_seconds * 2.0 ** (attempt - 1))
    return pause * (0.5 + derive(seed, "backoff", number, attempt) / 2**64)


def _key_from_environment() -> str:
    """The key, empty where there is none. Raises SodError, without the key, for what is none."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if key and not _KEY.fullmatch(key):
        raise SodError(f"{KEY_VARIABLE}: a key has printable ASCII characters alone, without spaces; set another")
    return key

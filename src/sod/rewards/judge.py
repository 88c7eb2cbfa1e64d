"""A judge model as a reward: an OpenAI-compatible service that grades episodes from 0 to 1.

What is asked stands in `judge_question.py`. The same question is asked once, ever: answers are kept on disk. Requests
are sent again after a failure, with growing pauses; after many failures in a row the service is left alone for a while.
A budget of requests and tokens bounds what a run can cost. The key comes from the environment alone; a redirect is not
followed, and neither proxies nor `.netrc` are used, so that no other host is shown it.
"""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any, final
from weakref import WeakValueDictionary

import httpx

from sod.asynchronous import loop_thread
from sod.recipe import JudgeSpec
from sod.recipe.keys.judge import KEY_VARIABLE
from sod.records import Episode, Fault, FaultKind, SodError
from sod.rewards.judge_cache import AnswerCache, content_key, default_folder
from sod.rewards.judge_question import grade_in, request_of
from sod.service import DENIED_CODES, SHOWN_CHARS, Patience, Service

MAX_REPLY_BYTES = 8 << 20
CHARS_PER_TOKEN = 4  # where the service does not say what it used


@final
class Judge:
    """Grades an episode when called; to be called from the process's event loop (`sod.asynchronous`) alone.

    `requests`, `tokens` and `kept` are what it has sent, used, and found in its cache. Raises SodError for a key that
    cannot be sent and a cache that cannot be written.
    """

    def __init__(self, spec: JudgeSpec, seed: int = 0) -> None:
        self._spec = spec
        self._service = Service("reward.judge", spec.url, KEY_VARIABLE, patience_of(spec), spec.concurrency, seed)
        self._cache = AnswerCache(Path(spec.cache).expanduser() if spec.cache else default_folder())
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.requests = self.tokens = self.kept = 0

    @property
    def spent(self) -> str:
        """What it has cost so far, in words."""
        return f"{self.requests:,} requests, {self.tokens:,} tokens; {self.kept:,} answers were known before"

    @property
    def longest_seconds(self) -> float:
        """What a call may take, with a wait for the same question of another episode."""
        return 2.0 * patience_of(self._spec).longest_seconds

    async def __call__(self, episode: Episode) -> float | Fault:
        """The grade of an episode, from 0 to 1. Raises SodError where the budget is spent."""
        request = request_of(self._spec, episode)
        key = content_key(self._spec.url, request)
        asking = self._asking.setdefault(key, asyncio.Lock())
        async with asking:  # the samples of a task are often alike
            kept = self._cache.get(key)
            answer = await self._answer(request) if kept is None else kept
            if isinstance(answer, Fault):
                return answer
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
        try:
            response = await self._service.get("models")
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
        loop_thread().run(self._service.close())

    def _ungraded(self, answer: str) -> Fault:
        said = self._service.shown(answer[-SHOWN_CHARS:])
        wanted = f"no line `Score: N` from 0 to {self._spec.best}"
        return Fault(FaultKind.BAD_REPLY, f"reward.judge: {self._spec.model} ended with {wanted}: {said}", False)

    async def _answer(self, request: dict[str, Any]) -> str | Fault:
        """Ask within the budget until there is an answer, or no attempt is left."""
        body = json.dumps(request).encode()
        read = partial(self._read, asked_bytes=len(body))
        return await self._service.ask("chat/completions", body, read, MAX_REPLY_BYTES, self._spend_a_request)

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

    async def _read(self, reply: bytes, asked_bytes: int) -> str | Fault:
        """The text of the answer; what it cost is added up. The reply is untrusted."""
        try:
            content = json.loads(reply)
            text = content["choices"][0]["message"]["content"]
            usage = content.get("usage") or {}
            used = usage.get("total_tokens")
        except (ValueError, LookupError, TypeError, AttributeError):
            return self._service.fault(
                FaultKind.BAD_REPLY, f"no chat completion: {self._service.shown(reply.decode('utf-8', 'replace'))}"
            )
        text = text if isinstance(text, str) else ""  # null: all of it was thought
        about = (asked_bytes + len(text)) // CHARS_PER_TOKEN
        self.tokens += used if type(used) is int and used > 0 else about
        return text


def patience_of(spec: JudgeSpec) -> Patience:
    """How the recipe has the service asked."""
    return Patience(
        spec.seconds,
        spec.attempts,
        spec.backoff_seconds,
        spec.backoff_max_seconds,
        spec.breaker_failures,
        spec.breaker_seconds,
    )

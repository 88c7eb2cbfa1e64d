"""One server of a teacher: asked row by row, with a cache before it.

Legend: T tokens of a row, N its action tokens, K the most probable ones.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from sod.recipe import TeacherSpec
from sod.records import Fault, FaultKind
from sod.service import Patience, Service
from sod.teachers.answers import Answer, Form, GarbledError, most_bytes, read_answer, request_body
from sod.teachers.in_flight import InFlight
from sod.teachers.score_cache import ScoreCache, default_folder, row_key


@final
@dataclass(frozen=True)
class Row:
    """A row of tokens, and the places (not the first) whose log-probabilities are wanted."""

    ids: tuple[int, ...]
    places: tuple[int, ...]


@final
@dataclass(frozen=True)
class RowScores:
    """The log-probabilities at the places of a row: of its own tokens, and of the k most probable ones. Nats."""

    logp_N: NDArray[np.float32]
    id_NK: NDArray[np.int64]
    best_NK: NDArray[np.float32]

    def packed(self) -> bytes:
        """As bytes that `unpacked` reads."""
        return self.logp_N.tobytes() + self.best_NK.tobytes() + self.id_NK.astype(np.int32).tobytes()


def unpacked(data: bytes, places: int, k: int) -> RowScores | None:
    """The scores in these bytes; None where they are none of so many places."""
    if len(data) != 4 * places * (1 + 2 * k):
        return None
    logp_N, best, ids = np.split(np.frombuffer(data, np.uint8), [4 * places, 4 * places * (1 + k)])
    best_NK = best.view(np.float32).reshape(places, k)
    return RowScores(logp_N.view(np.float32), ids.view(np.int32).reshape(places, k).astype(np.int64), best_NK)


@final
class Server:
    """What a recipe's teacher section says of a server; `key` is the section's own.

    `requests` and `kept` count what it was asked, and what the cache answered. `columns` are the ids that the student
    has; others among the most probable ones are of another model. Raises SodError for a key that cannot be sent and a
    cache that cannot be written.
    """

    def __init__(self, spec: TeacherSpec, key: str, columns: int, seed: int = 0) -> None:
        assert spec.url is not None
        assert spec.model is not None
        self.spec, self.key, self.model = spec, key, spec.model
        self.columns = columns
        patience = Patience(
            spec.seconds,
            spec.attempts,
            spec.backoff_seconds,
            spec.backoff_max_seconds,
            spec.breaker_failures,
            spec.breaker_seconds,
        )
        self.service = Service(key, spec.url, spec.api_key_env, patience, spec.concurrency, seed)
        folder = Path(spec.cache).expanduser() if spec.cache else default_folder()
        self.cache = ScoreCache(folder, spec.cache_gb, f"{key}.cache")
        self.requests = self.kept = 0

    async def scored(self, rows: Sequence[Row], k: int, form: Form, longest: int | None) -> list[RowScores | Fault]:
        """The scores of each row, asked side by side; equal rows are asked once."""
        in_flight = InFlight(self.spec.concurrency, self.spec.tokens_in_flight)
        alone = {row: self._scored(row, k, form, longest, in_flight) for row in dict.fromkeys(rows)}
        found = dict(zip(alone, await asyncio.gather(*alone.values()), strict=True))
        return [found[row] for row in rows]

    async def asked(self, ids: Sequence[int], k: int, form: Form, as_ids: bool = True) -> Answer | Fault:
        """What the server answers about a row, as often tried as the recipe says."""
        body = json.dumps(request_body(form, self.model, ids, k, as_ids)).encode()

        async def read(reply: bytes) -> Answer | Fault:
            return await asyncio.to_thread(self._read, reply, form, ids, k)  # megabytes: the loop goes on meanwhile

        return await self.service.ask("completions", body, read, most_bytes(len(ids), k), self._count)

    async def close(self) -> None:
        """Close connections and cache. Safe to call twice."""
        await self.service.close()
        self.cache.close()

    async def _scored(
        self, row: Row, k: int, form: Form, longest: int | None, in_flight: InFlight
    ) -> RowScores | Fault:
        if not row.places:
            return RowScores(np.zeros(0, np.float32), np.zeros((0, k), np.int64), np.zeros((0, k), np.float32))
        key = row_key(self.model, row.ids, row.places, k)
        data = self.cache.get(key)
        kept = None if data is None else unpacked(data, len(row.places), k)
        if kept is not None:
            self.kept += 1
            return kept
        if longest is not None and len(row.ids) > longest:
            return self.service.fault(
                FaultKind.SERVER, f"{len(row.ids):,} tokens are more than the {longest:,} that it takes", False
            )
        async with in_flight.taking(len(row.ids)):
            answer = await self.asked(row.ids, k, form)
        if isinstance(answer, Fault):
            return answer
        at = np.array(row.places)
        scores = RowScores(answer.logp_T[at], answer.id_TK[at], answer.best_TK[at])
        self.cache.put(key, scores.packed())
        return scores

    def _read(self, reply: bytes, form: Form, ids: Sequence[int], k: int) -> Answer | Fault:
        try:
            answer = read_answer(form, reply, ids, k)
        except ValueError as error:
            again = isinstance(error, GarbledError)  # what is wrong about a whole answer is wrong the next time too
            return self.service.fault(FaultKind.BAD_REPLY, self.service.shown(str(error))[1:-1], again)
        highest = int(answer.id_TK.max(initial=0))
        if highest >= self.columns:
            detail = f"token {highest} is among the most probable ones, and the student has {self.columns} tokens"
            return self.service.fault(FaultKind.BAD_REPLY, detail, False)
        return answer

    def _count(self) -> None:
        self.requests += 1

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

from sod.objective.scores import Level
from sod.recipe import TeacherSpec
from sod.records import Fault, FaultKind, SodError
from sod.service import Patience, Service
from sod.teachers.answers import Answer, Form, GarbledError, address, most_bytes, read_answer, request_body
from sod.teachers.base import Offer
from sod.teachers.in_flight import InFlight
from sod.teachers.score_cache import ScoreCache, default_folder, row_key

OTHER_MODEL = 0.1  # nats/token: bfloat16 and other kernels make 0.05 at most


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

    @property
    def finite(self) -> bool:
        """Whether all are numbers."""
        return bool(np.isfinite(self.logp_N).all() and np.isfinite(self.best_NK).all())

    def packed(self) -> bytes:
        """As bytes that `unpacked` reads."""
        return self.logp_N.tobytes() + self.best_NK.tobytes() + self.id_NK.astype(np.int32).tobytes()


def unpacked(data: bytes, places: int, k: int) -> RowScores | None:
    """The scores in these bytes; None where they are none of so many places, as on a damaged disk."""
    if len(data) != 4 * places * (1 + 2 * k):
        return None
    logps = np.frombuffer(data, np.float32, places * (1 + k))
    ids = np.frombuffer(data, np.int32, offset=logps.nbytes)
    if not (np.isfinite(logps).all() and (logps <= 0.0).all() and (ids >= 0).all()):
        return None
    best_NK = logps[places:].reshape(places, k)
    return RowScores(logps[:places], ids.reshape(places, k).astype(np.int64), best_NK)


@final
@dataclass(frozen=True)
class Offered:
    """What a server can do: in which form it answers, how many of the most probable tokens it gives, and the longest
    row that it takes (None: not known). `least_k`: some take 0 of the most probable tokens for no log-probabilities.
    """

    form: Form
    largest_k: int
    longest: int | None
    least_k: int = 0

    @property
    def offer(self) -> Offer:
        """The same as a teacher's offer. Log-probabilities of given tokens are always at temperature 1."""
        level: Level = "topk" if self.largest_k else "sampled"
        return Offer(level, self.largest_k, frozenset({1.0}), entropy=False)


@final
@dataclass(frozen=True)
class Proof:
    """Which model a server has, as far as it can be seen: its log-probabilities of a short text, in nats."""

    ids: tuple[int, ...]
    logp_T: Sequence[float]
    offered: Offered

    def refuse_other(self, now_T: Sequence[float], server: Server) -> None:
        """Raises SodError where the server says something else now."""
        away = float(np.abs(np.array(now_T) - np.array(self.logp_T)).mean())
        if away > OTHER_MODEL:
            raise SodError(
                f"{server.key}.model={server.model}: answers otherwise than the model of this name whose answers are "
                f"in {server.key}.cache ({away:.2f} nats/token on a short text); serve that one, or name another cache "
                "folder"
            )


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
        self._proof: Proof | None = None
        self._proven_after: int | None = None  # outages; None: not in this step
        self._proving = asyncio.Lock()

    def expect(self, proof: Proof, proven: bool = False) -> None:
        """What the server has to prove itself by before answers of a step, or after an outage, are believed and kept.

        `proven`: it has just done so.
        """
        self._proof = proof
        self._proven_after = self.service.outages if proven else None

    async def scored(self, rows: Sequence[Row], k: int, offered: Offered) -> list[RowScores | Fault]:
        """The scores of each row, asked side by side; equal rows are asked once.

        Raises SodError where another model answers than the one that was expected.
        """
        in_flight = InFlight(self.spec.concurrency, self.spec.tokens_in_flight)
        tasks = {row: asyncio.ensure_future(self._scored(row, k, offered, in_flight)) for row in dict.fromkeys(rows)}
        try:
            await asyncio.gather(*tasks.values())
        finally:  # where one fails, or the run is stopped, nothing more is asked
            for task in tasks.values():
                task.cancel()
            self._proven_after = None
        return [tasks[row].result() for row in rows]

    async def asked(
        self, ids: Sequence[int], k: int, form: Form, spelled: bool = False, attempts: int | None = None
    ) -> Answer | Fault:
        """What the server answers about a row, as often tried as the recipe says, or `attempts` times."""
        body = json.dumps(request_body(form, self.model, ids, k, spelled)).encode()

        async def read(reply: bytes) -> Answer | Fault:
            return await asyncio.to_thread(self._read, reply, form, ids, k)  # megabytes: the loop goes on meanwhile

        return await self.service.ask(address(form), body, read, most_bytes(len(ids), k), self._count, attempts)

    async def close(self) -> None:
        """Close connections and cache. Safe to call twice."""
        await self.service.close()
        self.cache.close()

    async def _scored(self, row: Row, k: int, offered: Offered, in_flight: InFlight) -> RowScores | Fault:
        if not row.places:
            return RowScores(np.zeros(0, np.float32), np.zeros((0, k), np.int64), np.zeros((0, k), np.float32))
        key = row_key(self.model, row.ids, row.places, k)
        data = self.cache.get(key)
        kept = None if data is None else unpacked(data, len(row.places), k)
        if kept is not None:
            self.kept += 1
            return kept
        if offered.longest is not None and len(row.ids) > offered.longest:
            return self.service.fault(
                FaultKind.SERVER, f"{len(row.ids):,} tokens are more than the {offered.longest:,} that it takes", False
            )
        async with in_flight.taking(len(row.ids)):
            answer = await self.asked(row.ids, max(k, offered.least_k), offered.form)
        if isinstance(answer, Fault):
            return answer
        doubt = await self._proven()
        if doubt is not None:
            return doubt
        at = np.array(row.places)
        scores = RowScores(answer.logp_T[at], answer.id_TK[at, :k], answer.best_TK[at, :k])
        self.cache.put(key, scores.packed())
        return scores

    async def _proven(self) -> Fault | None:
        """None where the model is the one that is expected, else why it could not be asked. SodError for another.

        A server that died and came back, unnoticed between two steps, may have another one under the same name.
        """
        async with self._proving:
            proof, outages = self._proof, self.service.outages
            if proof is None or self._proven_after == outages:
                return None
            answer = await self.asked(proof.ids, proof.offered.least_k, proof.offered.form)
            if isinstance(answer, Fault):
                return answer
            proof.refuse_other([float(logp) for logp in answer.logp_T], self)
            self._proven_after = outages
            return None

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

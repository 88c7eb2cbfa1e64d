"""The plain engine: batches turns with transformers' own cache, for models whose attention the fast one does not know.

Sliding windows, sinks, soft caps, latent and linear attention, state spaces: whatever a model's forward makes of its
own cache is what is sampled from. That is slower than `sod.engines.torch_engine`, as every token copies the cache and
is launched by itself. Rows are together in lanes: all of them in one where the cache allows rows of different length,
else a lane for each length, else one for each row (`plain_proof.Ways`). The noise of a token and the schedule are the
fast engine's: what is sampled is a function of the requests, never of a clock.

Legend: B rows, N new tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from sod.engines.base import Sampled, SampleRequest, Sampling
from sod.engines.device_cache import shares_of_memory
from sod.engines.plain_cache import bytes_of, merged, taken
from sod.engines.plain_decoder import Decoder
from sod.engines.plain_proof import found_ways
from sod.engines.sampler import draw_tokens, refuse_not_finite
from sod.engines.torch_engine import CACHE_SHARE, OFFLOAD_BYTES
from sod.engines.turns import Ended, Room, Row, Turns
from sod.models.architecture import in_one_line
from sod.models.length import Asked, refuse_longer, rope_bounds
from sod.models.logits import project, shape_of
from sod.models.meter import Cost, Meter


@final
@dataclass
class Lane:
    """Rows that decode together, and their cache: of each row all tokens but the last are in it."""

    rows: list[Row]
    cache: Any

    @property
    def length(self) -> int:
        """Tokens of the longest row in the cache."""
        return max(row.cached for row in self.rows)


@final
@dataclass(frozen=True)
class Kept:
    """The cache of an episode between two turns, and the tokens that it holds."""

    token_ids: tuple[int, ...]
    cache: Any
    bytes: int


@final
class PlainEngine:
    """Samples with a Hugging Face causal LM in this process, on the cache that its own forward makes.

    `max_rows` episodes decode together; on a CUDA device fewer where their caches would take more than three quarters
    of `cache_share` of its memory. Of those that wait for a tool, so many keep their caches as fit `offload_bytes`; the
    longest waiting are dropped first and prefilled again. No turn ends in a fault: what fails here fails the run.
    Raises UnknownArchitectureError for a model that does not go on from its cache as its plain forward would.
    """

    def __init__(
        self,
        model: Any,
        stop_ids: frozenset[int],
        max_rows: int = 128,
        offload_bytes: int | None = None,
        meter: Meter | None = None,
        cache_share: float = CACHE_SHARE,
    ) -> None:
        self.stop_ids = stop_ids
        self.max_rows = max_rows
        self._row_bytes: int | None = None
        waiting = OFFLOAD_BYTES
        if model.device.type == "cuda":
            self._row_bytes, waiting = shares_of_memory(model.device, cache_share)
        self._offload_bytes = waiting if offload_bytes is None else offload_bytes
        self._meter = meter or Meter()
        self._turns = Turns()
        self._lanes: list[Lane] = []
        self._kept: dict[str, Kept] = {}  # those whose turn ended first before others
        what = "cannot be sampled on transformers' cache"
        with in_one_line(model.config, "student", what), torch.inference_mode():
            self._decoder, self.ways = found_ways(Decoder.of(model), Cost.of(model).layer_weights)
            self._take(model)

    @property
    def exact(self) -> bool:
        """Never: what a cache of transformers' does beyond the proof's length is not known here.

        So the trainer makes the old log-probabilities itself, and says how far those of the sampler are off.
        """
        return False

    @property
    def version(self) -> int:
        """How many times `sync` was called."""
        return self._turns.version

    def submit(self, requests: Sequence[SampleRequest], sampling: Sampling) -> None:
        """Queue turns; see `Engine.submit`."""
        self._turns.submit(requests, sampling, self._refuse_longer)

    def advance(self, tokens: int) -> list[Ended]:
        """Sample up to so many tokens of every turn in the batch; see `Engine.advance`."""
        finished: list[Ended] = []
        with torch.inference_mode():
            for _ in range(tokens):
                finished += self._turns.admit(self._room, self._start)
                if not self._lanes:
                    break
                finished += self._step()
        return finished

    def generate(self, requests: Sequence[SampleRequest], sampling: Sampling) -> list[Sampled]:
        """Sample one turn for each request, to its end; in the order of the requests."""
        self.submit(requests, sampling)
        return self._turns.to_the_end(requests, self.advance)

    def forget(self, sessions: Iterable[str]) -> None:
        """These episodes are over; see `Engine.forget`."""
        for session in sessions:
            self._kept.pop(session, None)

    def sync(self, model: Any) -> None:
        """Sample with `model` from now on; what was cached under other weights is forgotten."""
        self._turns.refuse_sync()
        self._take(model)
        self._turns.version += 1

    def close(self) -> None:
        """Drop turns under way and all caches; see `Engine.close`."""
        self._turns.close()
        self._lanes, self._kept = [], {}

    def _take(self, model: Any) -> None:
        """Sample with this model, with nothing cached."""
        self.model = model
        self._decoder = replace(self._decoder, model=model)
        self._shape = shape_of(model.config)
        self._cost = Cost.of(model)
        self._lanes, self._kept = [], {}

    def _refuse_longer(self, tokens: int) -> None:
        refuse_longer(Asked(tokens, "context and max_new_tokens"), rope_bounds(self.model.config), "student")

    # --- turns coming in --------------------------------------------------------------------------

    def _room(self) -> Room:
        """One row always may come into an empty batch."""
        active = sum(len(lane.rows) for lane in self._lanes)
        free = self.max_rows - active
        if self._row_bytes is None:
            return Room(active, free)
        longest = max(row.total for row in self._turns.under_way.values())
        # Twice, as a token is added to a cache by making it anew.
        fitting = self._row_bytes // max(1, 2 * longest * self._cost.token_bytes)
        return Room(active, max(0 if active else 1, min(free, fitting - active)))

    def _start(self, rows: Sequence[Row]) -> list[Ended]:
        """Prefill new rows and sample their first token; the turns that end with it."""
        of_context: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            of_context.setdefault(row.context, []).append(row)
        hidden: list[Tensor] = []
        for same in of_context.values():
            lanes, hidden_1D = self._prefilled(same)
            self._lanes += lanes
            hidden.append(hidden_1D.expand(len(same), -1))
        self._sample([row for same in of_context.values() for row in same], torch.cat(hidden))
        finished = self._retired()
        self._lanes = self._arranged()
        return finished

    def _prefilled(self, rows: list[Row]) -> tuple[list[Lane], Tensor]:
        """Lanes of rows with one context, which is run once: on what is kept of the first one's episode if it can be.

        With the hidden state of its last token. Shape 1 x D.
        """
        context = rows[0].context
        kept = self._kept.pop(rows[0].session, None)
        cache, done = None, 0
        if kept is not None and self._goes_on(kept, context):
            cache, done = kept.cache, len(kept.token_ids)
        with self._meter.forward("prefill", self._cost, [len(context) - done], [done]):
            hidden_1D, cache = self._decoder.run([context[done:]], [done], cache)
        for row in rows:
            row.cached = len(context)
        if len(rows) == 1:
            return [Lane(rows, cache)], hidden_1D
        if self.ways.batches:
            return [Lane(rows, merged([cache] * len(rows), len(context)))], hidden_1D
        return [Lane([row], copy.deepcopy(cache)) for row in rows], hidden_1D

    def _goes_on(self, kept: Kept, context: tuple[int, ...]) -> bool:
        """Whether a context begins with what is kept and has more than that: one token has to be run."""
        length = len(kept.token_ids)
        return self.ways.continues and length < len(context) and kept.token_ids == context[:length]

    def _arranged(self) -> list[Lane]:
        """The rows of all lanes in as few as the model's cache allows."""
        arranged: dict[int, list[Lane]] = {}
        for number, lane in enumerate(self._lanes):
            place = 0 if self.ways.mixes else lane.length if self.ways.batches else number
            arranged.setdefault(place, []).append(lane)
        return [_joined(lanes) for lanes in arranged.values()]

    # --- one token --------------------------------------------------------------------------------

    def _step(self) -> list[Ended]:
        """Sample one token of all rows; the turns that end with it."""
        hidden: list[Tensor] = []
        for lane in self._lanes:
            cached = [row.cached for row in lane.rows]
            with self._meter.forward("decode", self._cost, [1] * len(cached), cached):
                hidden_BD, lane.cache = self._decoder.run([[row.last_token] for row in lane.rows], cached, lane.cache)
            for row in lane.rows:
                row.cached += 1
            hidden.append(hidden_BD)
        self._sample([row for lane in self._lanes for row in lane.rows], torch.cat(hidden))
        return self._retired()

    def _sample(self, rows: Sequence[Row], hidden_BD: Tensor) -> None:
        """Draw the next token of rows."""
        moved = self._cost.head_weights * self._cost.weight_bytes
        with self._meter.phase("sample", len(rows), self._cost.head(len(rows)), moved):
            logits_BV = project(self.model.get_output_embeddings(), hidden_BD, self._shape)
            key_B = np.array([row.request.noise_key for row in rows], dtype=np.uint64)
            position_B = np.array([row.length for row in rows], dtype=np.uint64)
            token_B, logp_B = draw_tokens(logits_BV, self._turns.sampling, key_B, position_B)
            drawn = list(zip(token_B.tolist(), logp_B.tolist(), strict=True))
        refuse_not_finite([logp for _, logp in drawn])
        for row, (token, logp) in zip(rows, drawn, strict=True):
            row.add([token], [logp], self.stop_ids)

    # --- turns going out --------------------------------------------------------------------------

    def _retired(self) -> list[Ended]:
        """Take the turns that are over out of their lanes, and keep their caches for the next turns."""
        finished: list[Ended] = []
        lanes: list[Lane] = []
        for lane in self._lanes:
            over = [number for number, row in enumerate(lane.rows) if row.done]
            staying = [number for number, row in enumerate(lane.rows) if not row.done]
            for number in over:
                self._keep(lane, number)
                finished.append(self._turns.ended(lane.rows[number]))
            if staying:
                lanes.append(_part(lane, staying) if over else lane)
        self._lanes = lanes
        self._drop_oldest()
        return finished

    def _keep(self, lane: Lane, number: int) -> None:
        if not self.ways.continues:
            return
        row = lane.rows[number]
        cache = lane.cache if len(lane.rows) == 1 else _part(lane, [number]).cache
        token_ids = (*row.context, *row.token_ids)[: row.cached]
        self._kept.pop(row.session, None)  # the newest stand last
        self._kept[row.session] = Kept(token_ids, cache, bytes_of(cache))

    def _drop_oldest(self) -> None:
        """Drop kept caches until the rest fits, those whose turn ended first before others."""
        held = sum(kept.bytes for kept in self._kept.values())
        while held > self._offload_bytes:
            held -= self._kept.pop(next(iter(self._kept))).bytes


def _joined(lanes: Sequence[Lane]) -> Lane:
    """Several lanes as one."""
    if len(lanes) == 1:
        return lanes[0]
    rows = [row for lane in lanes for row in lane.rows]
    return Lane(rows, merged([lane.cache for lane in lanes], max(lane.length for lane in lanes)))


def _part(lane: Lane, numbers: Sequence[int]) -> Lane:
    """Some rows of a lane, in a cache of their own."""
    rows = [lane.rows[number] for number in numbers]
    return Lane(rows, taken(lane.cache, numbers, max(row.cached for row in rows)))

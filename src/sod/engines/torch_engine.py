"""The embedded engine: continuous batching with the trainer's own module, in this process.

A turn that ends leaves the batch at once and the next one takes its place; the keys and values of its episode are
kept, so that its next turn prefills what is new only. Samples of one prompt share its prefill. The schedule is a
function of the requests and of the order in which they came: no clock is ever read.

Legend: B rows, N new tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from sod.engines.base import Sampled, SampleRequest, Sampling
from sod.engines.cache import Parked, Shape, SlotCache
from sod.engines.sampler import draw
from sod.models.attention import NAME as ATTENTION
from sod.models.meter import Cost, Meter
from sod.records import SodError

PREFILL_TOKENS = 4096  # in one forward, padding counted
SCORES = 2**26  # attention scores of one forward and layer: 256 MB of float32


@dataclass
class _Row:
    """A turn while it is being sampled; `cached` tokens of its episode are in the cache."""

    request: SampleRequest
    token_ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    cached: int = 0
    stopped: bool = False

    @property
    def length(self) -> int:
        """Tokens of the episode, those sampled in this turn included."""
        return len(self.request.token_ids) + len(self.token_ids)

    @property
    def done(self) -> bool:
        return self.stopped or len(self.token_ids) >= self.request.max_new_tokens

    def uncached(self) -> Sequence[int]:
        """The tokens that the model has not seen yet: at least one."""
        if self.token_ids:
            return self.token_ids[-1:]
        return self.request.token_ids[self.cached :]


@final
class TorchEngine:
    """Samples with a Hugging Face causal LM in this process; `sync` copies nothing as the weights are shared.

    `max_rows` episodes decode together. Of those that wait for a tool, so many keep their keys and values as fit
    `parked_bytes`; the longest waiting are dropped first and prefilled again. Raises SodError for a model whose
    attention is not plain causal attention over the whole context.
    """

    def __init__(
        self,
        model: Any,
        stop_ids: frozenset[int],
        max_rows: int = 128,
        parked_bytes: int = 2 << 30,
        meter: Meter | None = None,
    ) -> None:
        kinds = set(getattr(model.config, "layer_types", None) or []) - {"full_attention"}
        if kinds:
            raise SodError(f"student: layers of kind {', '.join(sorted(kinds))} are not supported by the torch engine")
        self.stop_ids = stop_ids
        self.max_rows = max_rows
        self._parked_bytes = parked_bytes
        self._meter = meter or Meter()
        self._waiting: deque[_Row] = deque()
        self._active: list[_Row] = []
        self._sampling = Sampling()
        self.sync(model)
        self._prove()
        self._cache.clear()

    def sync(self, model: Any) -> None:
        """Sample with `model` from now on; what was cached under other weights is forgotten."""
        if self._waiting or self._active:
            raise ValueError("the weights changed while turns were being sampled")
        self.model = model
        model.set_attn_implementation(ATTENTION)
        config = model.config
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        shape = Shape(
            config.num_hidden_layers, config.num_key_value_heads or heads, head_dim, model.dtype, model.device
        )
        self._cache = SlotCache(shape)
        self._cost = Cost.of(model)
        self._parked: dict[str, Parked] = {}
        self._prompts: dict[tuple[int, ...], str] = {}

    def submit(self, requests: Sequence[SampleRequest], sampling: Sampling) -> None:
        """Queue turns; see `Engine.submit`."""
        if (self._waiting or self._active) and sampling != self._sampling:
            raise ValueError("turns with other sampling settings are still under way")
        busy = [row.request.session for row in (*self._waiting, *self._active)]
        if len({*busy, *(request.session for request in requests)}) < len(busy) + len(requests):
            raise ValueError("a session has two turns under way")
        self._sampling = sampling
        self._waiting.extend(_Row(request) for request in requests)

    def advance(self, tokens: int) -> list[tuple[str, Sampled]]:
        """Sample up to so many tokens of every active turn; see `Engine.advance`."""
        finished: list[tuple[str, Sampled]] = []
        with torch.inference_mode():
            for _ in range(tokens):
                finished += self._admit()
                if not self._active:
                    break
                hidden_BD = self._forward(0, self._active)
                finished += self._sample(0, self._active, hidden_BD)
        return finished

    def forget(self, sessions: Iterable[str]) -> None:
        """These episodes are over; see `Engine.forget`."""
        for session in sessions:
            self._parked.pop(session, None)
        kept = self._parked.keys() | {row.request.session for row in self._active}
        self._prompts = {prompt: session for prompt, session in self._prompts.items() if session in kept}
        if not self._active:
            self._cache.clear()

    def generate(self, requests: Sequence[SampleRequest], sampling: Sampling) -> list[Sampled]:
        """Sample one turn for each request, to its end; see `Engine.generate`."""
        self.submit(requests, sampling)
        turns: dict[str, Sampled] = {}
        while self._waiting or self._active:
            turns |= dict(self.advance(1024))
        return [turns[request.session] for request in requests]

    # --- turns coming in --------------------------------------------------------------------------

    def _admit(self) -> list[tuple[str, Sampled]]:
        """Let waiting turns in, prefill them, and sample their first token; the turns that end with it.

        Not one by one: a prefill of a single row costs almost as much as one of several.
        """
        finished: list[tuple[str, Sampled]] = []
        while self._waiting:
            free = self.max_rows - len(self._active)
            if self._active and free < min(len(self._waiting), max(1, self.max_rows // 8)):
                break
            rows = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
            finished += [(row.request.session, Sampled((), (), False)) for row in rows if row.done]
            rows = [row for row in rows if not row.done]
            finished += self._start(rows)
        return finished

    def _start(self, rows: Sequence[_Row]) -> list[tuple[str, Sampled]]:
        """Prefill new rows and sample their first token. Rows with the same new prompt share its prefill."""
        first = len(self._active)
        leaders, followers = self._sort_out(rows)
        self._active += leaders + followers
        for slot, row in enumerate(leaders, start=first):
            if row.cached:
                self._cache.restore(slot, self._parked.pop(row.request.session), row.cached)
        hidden_BD = [self._prefill(first, leaders)]
        for slot, row in enumerate(followers, start=first + len(leaders)):
            self._borrow(slot, row)
        hidden_BD.append(self._prefill(first + len(leaders), followers))
        return self._sample(first, leaders + followers, torch.cat(hidden_BD))

    def _sort_out(self, rows: Sequence[_Row]) -> tuple[list[_Row], list[_Row]]:
        """The rows that are prefilled for themselves, those with most to do first; those that can borrow a prompt."""
        leaders: list[_Row] = []
        followers: list[_Row] = []
        for row in rows:
            session, prompt = row.request.session, tuple(row.request.token_ids)
            parked = self._parked.get(session)
            if parked is not None and parked.token_ids != prompt[: parked.length]:
                # Not the conversation that was kept: nobody may borrow from it either.
                del self._parked[session]
                self._prompts = {known: lender for known, lender in self._prompts.items() if lender != session}
                parked = None
            if parked is not None:
                row.cached = min(parked.length, len(prompt) - 1)
            elif prompt in self._prompts:
                followers.append(row)
                continue
            else:
                self._prompts[prompt] = session
            leaders.append(row)
        leaders.sort(key=lambda row: row.cached - len(row.request.token_ids))
        return leaders, followers

    def _borrow(self, slot: int, row: _Row) -> None:
        """Copy the prompt's columns from an episode that has them; its last token remains to be run."""
        prompt = tuple(row.request.token_ids)
        lender = self._prompts[prompt]
        row.cached = len(prompt) - 1
        if lender in self._parked:
            self._cache.restore(slot, self._parked[lender], row.cached)
        else:
            source = next(at for at, other in enumerate(self._active) if other.request.session == lender)
            self._cache.copy(source, slot, row.cached)

    def _prefill(self, first: int, rows: Sequence[_Row]) -> Tensor:
        """Run what the rows have not cached; the last hidden state of each. Shape B x D."""
        config = self.model.config
        parts = [torch.empty(0, config.hidden_size, dtype=self.model.dtype, device=self.model.device)]
        done = 0
        while done < len(rows):
            longest = len(rows[done].uncached())
            columns = max(row.length for row in rows[done:])
            several = min(PREFILL_TOKENS // longest, SCORES // (config.num_attention_heads * longest * columns))
            batch = rows[done : done + max(1, several)]
            parts.append(self._forward(first + done, batch))
            done += len(batch)
        return torch.cat(parts)

    # --- one forward ------------------------------------------------------------------------------

    def _forward(self, first: int, rows: Sequence[_Row]) -> Tensor:
        """Run the uncached tokens of the rows in slots `first` and on; the hidden state of the last. Shape B x D."""
        new = [row.uncached() for row in rows]
        width = max(len(tokens) for tokens in new)
        token_BN = torch.tensor([[*tokens, *[0] * (width - len(tokens))] for tokens in new], device=self.model.device)
        start_B = torch.tensor([row.cached for row in rows], device=self.model.device)
        last_B = torch.tensor([len(tokens) - 1 for tokens in new], device=self.model.device)
        position_BN = start_B[:, None] + torch.arange(width, device=self.model.device)
        with self._measured("decode" if width == 1 else "prefill", rows, new):
            hidden_BND = self.model.get_decoder()(
                input_ids=token_BN,
                position_ids=position_BN,
                attention_mask=token_BN[:, None, None, :],  # four dimensions: taken as it is, and the window ignores it
                use_cache=False,
                window=self._cache.window(first, position_BN),
            ).last_hidden_state
        for row in rows:
            row.cached = row.length
        last_BD: Tensor = hidden_BND[torch.arange(len(rows)), last_B]
        return last_BD

    def _measured(self, phase: str, rows: Sequence[_Row], new: Sequence[Sequence[int]]) -> AbstractContextManager[None]:
        tokens = sum(len(part) for part in new)
        pairs = sum(len(part) * (2 * row.cached + len(part) + 1) // 2 for row, part in zip(rows, new, strict=True))
        cached = sum(row.cached for row in rows)
        cost = self._cost
        moved = cost.layer_weights * cost.weight_bytes + cached * cost.token_bytes
        return self._meter.phase(phase, tokens, cost.layers(tokens, pairs), moved)

    def _sample(self, first: int, rows: Sequence[_Row], hidden_BD: Tensor) -> list[tuple[str, Sampled]]:
        """Draw the next token of the rows in slots `first` and on; those that end with it leave."""
        key_B = np.array([row.request.noise_key for row in rows], dtype=np.uint64)
        position_B = np.array([row.length for row in rows], dtype=np.uint64)
        moved = self._cost.head_weights * self._cost.weight_bytes
        with self._meter.phase("sample", len(rows), self._cost.head(len(rows)), moved):
            logits_BV = self.model.get_output_embeddings()(hidden_BD)
            token_B, logp_B = draw(logits_BV, self._sampling, key_B, position_B)
        if not bool(torch.isfinite(logp_B).all()):
            raise SodError("sampling: the model's logits are not finite (NaN or infinite weights?)")
        for row, token, logp in zip(rows, token_B.tolist(), logp_B.tolist(), strict=True):
            row.token_ids.append(token)
            row.logps.append(logp)
            row.stopped = token in self.stop_ids
        over = [slot for slot, row in enumerate(rows, start=first) if row.done]
        return [self._retire(slot) for slot in reversed(over)]

    def _retire(self, slot: int) -> tuple[str, Sampled]:
        """Park a row and close the gap with the last one."""
        row = self._active[slot]
        session = row.request.session
        tokens = (*row.request.token_ids, *row.token_ids)[: row.cached]
        self._parked[session] = self._cache.park(slot, tokens)
        last = self._active.pop()
        if last is not row:
            self._cache.copy(len(self._active), slot, last.cached)
            self._active[slot] = last
        held = sum(parked.bytes for parked in self._parked.values())
        while held > self._parked_bytes:
            oldest = next(iter(self._parked))
            held -= self._parked[oldest].bytes
            self.forget([oldest])
        return session, Sampled(tuple(row.token_ids), tuple(row.logps), row.stopped)

    def _prove(self) -> None:
        """Compare a prefill, and one on top of cached tokens, with the plain forward. Raises SodError."""
        ids = [token * 7919 % int(self.model.config.vocab_size) for token in range(3, 27)]
        tolerance = 1e-3 if self.model.dtype == torch.float32 else 0.25  # rounding alone makes 0.02 in bfloat16
        token_BT = torch.tensor([ids], device=self.model.device)
        with torch.inference_mode():
            plain_TD = self.model.get_decoder()(input_ids=token_BT, use_cache=False).last_hidden_state[0]
            for cached, end in ((0, 16), (16, 24)):
                row = _Row(SampleRequest("", ids[:end], 1, 0), cached=cached)
                wanted_D = plain_TD[end - 1]
                gap = float((self._forward(0, [row])[0] - wanted_D).norm() / wanted_D.norm())
                if gap > tolerance:
                    raise SodError(
                        f"student: the attention of architecture {self.model.config.model_type!r} is not supported by "
                        f"the torch engine (its cached forward differs by {gap:.1%})"
                    )

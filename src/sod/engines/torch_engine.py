"""The fast engine: continuous batching with the trainer's own module, in this process.

A turn that ends leaves the batch at once and the next one takes its place; the keys and values of its episode are
kept, so that its next turn prefills what is new only. Samples of one prompt share its prefill. The schedule is a
function of the requests and of the order in which they came: no clock is ever read.

Which episode is where is the business of `sod.engines.slots`; here is what is run, and when.

Legend: B rows, N new tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from sod.engines.base import Sampled, SampleRequest, Sampling
from sod.engines.cache import GrowingStorage, Shape
from sod.engines.device_burst import BURST, Bursts, plain_index_writes
from sod.engines.device_cache import FixedStorage, most_tokens, shares_of_memory
from sod.engines.device_draw import draw
from sod.engines.device_noise import signed, uniforms
from sod.engines.proof import MOST, prove
from sod.engines.sampler import draw_tokens, refuse_not_finite
from sod.engines.slots import Slots
from sod.engines.turns import Ended, Room, Row, Turns
from sod.models.architecture import in_one_line, refuse_unusual
from sod.models.attention import NAME as ATTENTION
from sod.models.length import Asked, refuse_longer, rope_bounds, window_bounds
from sod.models.logits import project, shape_of
from sod.models.meter import Cost, Meter
from sod.records import SodError

PREFILL_TOKENS = {"cpu": 4096, "cuda": 16384}  # in one forward, padding counted
CACHE_SHARE = 0.25  # of a CUDA device's memory
OFFLOAD_BYTES = 2 << 30  # on a CPU, of episodes that wait for a tool
SCORES = 2**26  # attention scores of one forward and layer: 256 MB of float32


@final
class TorchEngine:
    """Samples with a Hugging Face causal LM in this process; `sync` copies nothing as the weights are shared.

    `max_rows` episodes decode together. Of those that wait for a tool, so many keep their keys and values as fit
    `offload_bytes`; the longest waiting are dropped first and prefilled again. No turn ends in a fault: what fails
    here fails the run. Raises UnknownArchitectureError for a model whose attention is not plain causal attention over
    the whole context, and SodError for a turn that may become longer than this engine samples exactly.

    On a CUDA device the cache has a fixed size, `cache_share` of the device's memory: three quarters for the rows that
    decode, a quarter for `offload_bytes`. Fewer rows than `max_rows` decode together where these do not fit, and a turn
    that does not fit alone is refused with a SodError. Tokens are then sampled in bursts: a turn that ends makes room
    at the end of its burst. `cache_bytes` asks for such a cache, of this size, on any device. It is no larger than
    `max_rows` rows of `longest` tokens need, where that is told.
    """

    def __init__(
        self,
        model: Any,
        stop_ids: frozenset[int],
        max_rows: int = 128,
        offload_bytes: int | None = None,
        meter: Meter | None = None,
        cache_share: float = CACHE_SHARE,
        cache_bytes: int | None = None,
        longest: int | None = None,
    ) -> None:
        refuse_unusual(model.config, "student")
        self.stop_ids = stop_ids
        self.max_rows = max_rows
        self._offload_bytes = OFFLOAD_BYTES if offload_bytes is None else offload_bytes
        self._cache_bytes, self._longest = cache_bytes, longest
        if model.device.type == "cuda":
            rows, waiting = shares_of_memory(model.device, cache_share)
            self._cache_bytes = cache_bytes or rows
            self._offload_bytes = waiting if offload_bytes is None else offload_bytes
        self._fixed: FixedStorage | None = None
        self._bursts: Bursts | None = None
        self._meter = meter or Meter()
        self._turns = Turns()
        with in_one_line(model.config, "student", "cannot run on the fast engine's cache"), torch.inference_mode():
            self._take(model)
            prove(model, self._last_hidden, self._cost.layer_weights)
            self._slots.clear()

    @property
    def exact(self) -> bool:
        """True for a float32 model; in bfloat16 a cached forward rounds differently from the trainer's."""
        return bool(self.model.dtype == torch.float32)

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
        with torch.inference_mode(), plain_index_writes():
            while tokens > 0:
                finished += self._turns.admit(self._room, self._start)
                if not self._slots.rows:
                    break
                if self._bursts is None:
                    ran, ended = 1, self._step()
                else:
                    ran, ended = self._burst(self._bursts, tokens)
                tokens -= ran
                finished += ended
        return finished

    def generate(self, requests: Sequence[SampleRequest], sampling: Sampling) -> list[Sampled]:
        """Sample one turn for each request, to its end; in the order of the requests."""
        self.submit(requests, sampling)
        return self._turns.to_the_end(requests, self.advance)

    def forget(self, sessions: Iterable[str]) -> None:
        """These episodes are over; see `Engine.forget`."""
        self._slots.forget(sessions)

    def sync(self, model: Any) -> None:
        """Sample with `model` from now on; what was cached under other weights is forgotten."""
        self._turns.refuse_sync()
        self._take(model)
        self._turns.version += 1

    def close(self) -> None:
        """Drop turns under way and give the cache's memory back; see `Engine.close`."""
        self._turns.close()
        self._drop()

    def _drop(self) -> None:
        """Give all memory back."""
        self._slots = Slots(GrowingStorage(Shape.of(self.model)), self._offload_bytes)
        self._fixed = self._bursts = None

    def _take(self, model: Any) -> None:
        """Sample with this model, with nothing cached. Buffers and graphs stay where its weights stayed."""
        model.set_attn_implementation(ATTENTION)
        self.model = model
        self._cost = Cost.of(model)
        if self._bursts is not None and self._bursts.serves(model):
            self._slots.clear()
            return
        self._drop()
        if self._cache_bytes is None:
            return
        most = None if self._longest is None else most_tokens(self.max_rows, max(MOST, self._longest))
        self._fixed = FixedStorage.of_bytes(Shape.of(model), self._cache_bytes, most)
        self._refuse_beyond_cache(MOST)
        self._slots = Slots(self._fixed, self._offload_bytes)
        self._bursts = Bursts(model, self.stop_ids, self.max_rows, self._fixed)

    def _refuse_longer(self, tokens: int) -> None:
        exact = [*rope_bounds(self.model.config), *window_bounds(self.model.config)]
        refuse_longer(Asked(tokens, "context and max_new_tokens"), exact, "student")
        self._refuse_beyond_cache(tokens)

    def _refuse_beyond_cache(self, tokens: int) -> None:
        if self._fixed is not None and not self._fixed.fits(1, tokens):
            raise SodError(
                f"rollout.cache_share: the cache on {self.model.device} holds {self._fixed.tokens} tokens, too few to "
                f"decode {tokens} (context and max_new_tokens); raise it, or lower rollout.max_prompt_tokens and "
                "rollout.max_response_tokens"
            )

    # --- turns coming in --------------------------------------------------------------------------

    def _room(self) -> Room:
        """As much as `max_rows` and a cache of fixed size leave.

        Room is kept for what every turn may grow to, so that none has to leave for want of it.
        """
        active = self._slots.rows
        free = self.max_rows - len(active)
        if self._fixed is None:
            return Room(len(active), free)
        longest = max((row.total for row in active), default=0)
        for number, row in enumerate(islice(self._turns.waiting, free)):
            longest = max(longest, row.total)
            if not self._fixed.fits(len(active) + number + 1, longest):
                return Room(len(active), number)
        return Room(len(active), free)

    def _start(self, rows: Sequence[Row]) -> list[Ended]:
        """Prefill new rows and sample their first token; the turns that end with it."""
        first = len(self._slots.rows)
        leaders, followers = self._slots.admit(rows)
        hidden_BD = [self._prefill(first, leaders)]
        # Followers copy what leaders have just run, so their turn comes second; one token of each remains to be run.
        after = first + len(leaders)
        self._slots.share_prefixes(after)
        hidden_BD.append(self._prefill(after, followers))
        return self._sample(first, leaders + followers, torch.cat(hidden_BD))

    def _prefill(self, first: int, rows: Sequence[Row]) -> Tensor:
        """Run what the rows have not cached; the last hidden state of each. Shape B x D."""
        config = self.model.config
        parts = [torch.empty(0, config.hidden_size, dtype=self.model.dtype, device=self.model.device)]
        done = 0
        while done < len(rows):
            # The longest comes first. Several run together as far as padded tokens and attention scores allow.
            longest = len(rows[done].uncached())
            columns = max(row.length for row in rows[done:])
            several = PREFILL_TOKENS[self.model.device.type] // longest
            # On CUDA, prompts with nothing cached go through fused attention, which keeps no scores.
            if self.model.device.type == "cpu" or any(row.cached for row in rows[done:]):
                several = min(several, SCORES // (config.num_attention_heads * longest * columns))
            batch = rows[done : done + max(1, several)]
            parts.append(self._forward(first + done, batch))
            done += len(batch)
        return torch.cat(parts)

    # --- one forward ------------------------------------------------------------------------------

    def _forward(self, first: int, rows: Sequence[Row]) -> Tensor:
        """Run the uncached tokens of the rows in slots `first` and on; the hidden state of the last. Shape B x D."""
        new = [row.uncached() for row in rows]
        width = max(len(tokens) for tokens in new)
        token_BN = torch.tensor([[*tokens, *[0] * (width - len(tokens))] for tokens in new], device=self.model.device)
        start_B = torch.tensor([row.cached for row in rows], device=self.model.device)
        last_B = torch.tensor([len(tokens) - 1 for tokens in new], device=self.model.device)
        position_BN = start_B[:, None] + torch.arange(width, device=self.model.device)
        phase, lengths = "decode" if width == 1 else "prefill", [len(tokens) for tokens in new]
        with self._meter.forward(phase, self._cost, lengths, [row.cached for row in rows]):
            hidden_BND = self.model.get_decoder()(
                input_ids=token_BN,
                position_ids=position_BN,
                attention_mask=token_BN[:, None, None, :],  # four dimensions: taken as it is, and the window ignores it
                use_cache=False,
                window=self._slots.window(first, position_BN),
            ).last_hidden_state
        for row in rows:
            row.cached = row.length
        last_BD: Tensor = hidden_BND[torch.arange(len(rows), device=last_B.device), last_B]
        return last_BD

    # --- one token, or several --------------------------------------------------------------------

    def _step(self) -> list[Ended]:
        """Sample one token of all rows; the turns that end with it."""
        return self._sample(0, self._slots.rows, self._forward(0, self._slots.rows))

    def _burst(self, bursts: Bursts, tokens: int) -> tuple[int, list[Ended]]:
        """Sample so many tokens of all rows or fewer: how many, and the turns that ended with them."""
        rows = self._slots.rows
        ran = min(BURST, tokens, max(row.left for row in rows))
        with self._measured_burst(rows, ran):
            drawn = bursts.run(rows, ran, self._turns.sampling)
        for row, (token_ids, logps) in zip(rows, drawn, strict=True):
            refuse_not_finite(logps)
            row.add(token_ids, logps, self.stop_ids)
            row.cached = row.length - 1
        return ran, self._ends(0, rows)

    def _measured_burst(self, rows: Sequence[Row], tokens: int) -> AbstractContextManager[None]:
        """Rows that stop inside the burst are counted to its end: they run on."""
        cost, count = self._cost, len(rows) * tokens
        cached = sum(row.length for row in rows) * tokens
        moved = cost.bytes * tokens + cached * cost.token_bytes
        return self._meter.phase("decode", count, cost.layers(count, cached) + cost.head(count), moved)

    def _sample(self, first: int, rows: Sequence[Row], hidden_BD: Tensor) -> list[Ended]:
        """Draw the next token of the rows in slots `first` and on; the turns that end with it leave their slots."""
        moved = self._cost.head_weights * self._cost.weight_bytes
        with self._meter.phase("sample", len(rows), self._cost.head(len(rows)), moved):
            logits_BV = project(self.model.get_output_embeddings(), hidden_BD, shape_of(self.model.config))
            token_B, logp_B = self._drawn(rows, logits_BV)
        logps = logp_B.tolist()
        refuse_not_finite(logps)
        for row, token, logp in zip(rows, token_B.tolist(), logps, strict=True):
            row.add([token], [logp], self.stop_ids)
        return self._ends(first, rows)

    def _drawn(self, rows: Sequence[Row], logits_BV: Tensor) -> tuple[Tensor, Tensor]:
        """A token of each row, and its log-probability: in one pass where tokens are sampled in bursts."""
        keys, positions = [row.request.noise_key for row in rows], [row.length for row in rows]
        if self._bursts is None:
            noise = np.array(keys, dtype=np.uint64), np.array(positions, dtype=np.uint64)
            return draw_tokens(logits_BV, self._turns.sampling, *noise)
        key_B = torch.tensor([signed(key) for key in keys], device=logits_BV.device)
        noise_B = uniforms(key_B, torch.tensor(positions, device=logits_BV.device))
        return draw(logits_BV, noise_B, torch.arange(len(rows), device=logits_BV.device), self._turns.sampling)

    def _ends(self, first: int, rows: Sequence[Row]) -> list[Ended]:
        """Take the turns that are over out of the slots `first` and on."""
        over = [slot for slot, row in enumerate(rows, start=first) if row.done]
        return [self._turns.ended(self._slots.retire(slot)) for slot in reversed(over)]

    # --- before the first turn --------------------------------------------------------------------

    def _last_hidden(self, ids: list[int], cached: int) -> Tensor:
        """The hidden state of the last of `ids`, of which `cached` are in the first slot. Shape D."""
        return self._forward(0, [Row(SampleRequest("", ids, 1, 0), cached=cached)])[0]

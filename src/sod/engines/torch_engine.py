"""The embedded engine: batched sampling with the trainer's own module, in this process.

The schedule is a function of the requests alone: batches are cut by length and count, rows leave a batch
when they stop, and no clock is ever read. Rows sit right-padded in the key-value cache; the cache column
of a token and its position differ, a mask says which columns of a row hold tokens.

Legend: B rows, S cache columns, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from sod.engines.base import Sampled, SampleRequest, Sampling
from sod.engines.sampler import draw
from sod.records import SodError


class _RoomyLayer(DynamicLayer):
    """A cache layer that grows by doubling, so that a decoded token costs no copy of the whole cache."""

    buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used = self.get_seq_length()
        need = used + key_states.shape[-2]
        if self.buffers is None or self.buffers[0].shape[-2] < need:
            shape = (*key_states.shape[:2], max(2 * used, need + 64))
            grown = (
                key_states.new_empty(*shape, key_states.shape[-1]),
                value_states.new_empty(*shape, value_states.shape[-1]),
            )
            if self.keys is not None and self.values is not None and used:
                grown[0][:, :, :used] = self.keys
                grown[1][:, :, :used] = self.values
            self.buffers = grown
        self.buffers[0][:, :, used:need] = key_states
        self.buffers[1][:, :, used:need] = value_states
        self.keys, self.values = (buffer[:, :, :need] for buffer in self.buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.buffers = None


@dataclass
class _Row:
    """One request while it is being sampled."""

    number: int
    request: SampleRequest
    token_ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    stopped: bool = False

    @property
    def done(self) -> bool:
        return self.stopped or len(self.token_ids) >= self.request.max_new_tokens


@final
class TorchEngine:
    """Samples with a Hugging Face causal LM in this process; `sync` costs nothing as the weights are shared."""

    def __init__(self, model: Any, stop_ids: frozenset[int], max_rows: int = 128) -> None:
        """`max_rows` bounds how many episodes share a batch, and so the cache.

        Raises SodError for layers that do not attend to the whole context: the mask below would be wrong for them.
        """
        kinds = set(getattr(model.config, "layer_types", None) or []) - {"full_attention"}
        if kinds:
            raise SodError(f"student: layers of kind {', '.join(sorted(kinds))} are not supported by the torch engine")
        self.model = model
        self.stop_ids = stop_ids
        self.max_rows = max_rows

    def sync(self, model: Any) -> None:
        """Sample with `model` from now on."""
        self.model = model

    def generate(self, requests: Sequence[SampleRequest], sampling: Sampling) -> list[Sampled]:
        """Sample one turn for each request; see `Engine.generate`."""
        rows = [_Row(number, request) for number, request in enumerate(requests)]
        # Neighbours in length share a batch, which keeps padding small; ties keep their order.
        waiting = sorted((row for row in rows if not row.done), key=lambda row: -len(row.request.token_ids))
        with torch.inference_mode():
            for first in range(0, len(waiting), self.max_rows):
                self._run(waiting[first : first + self.max_rows], sampling)
        return [Sampled(tuple(row.token_ids), tuple(row.logps), row.stopped) for row in rows]

    def _run(self, rows: list[_Row], sampling: Sampling) -> None:
        length_B = torch.tensor([len(row.request.token_ids) for row in rows])
        width = int(length_B.max())
        token_BS = torch.zeros(len(rows), width, dtype=torch.int64)
        for at, row in enumerate(rows):
            token_BS[at, : length_B[at]] = torch.tensor(row.request.token_ids)
        cache = Cache(layer_class_to_replicate=_RoomyLayer)
        decoder = self.model.get_decoder()
        hidden_BSD = decoder(input_ids=token_BS, past_key_values=cache, use_cache=True).last_hidden_state
        hidden_BD = hidden_BSD[torch.arange(len(rows)), length_B - 1]
        visible_BS = torch.arange(width)[None] < length_B[:, None]
        while True:
            next_B = self._draw(rows, hidden_BD, sampling)
            keep = [at for at, row in enumerate(rows) if not row.done]
            if not keep:
                return
            # Selecting rows copies the cache, so wait until half of the batch has gone.
            if len(keep) <= len(rows) // 2:
                kept = torch.tensor(keep)
                cache.batch_select_indices(kept)
                rows = [rows[at] for at in keep]
                next_B, length_B, visible_BS = next_B[kept], length_B[kept], visible_BS[kept]
            visible_BS = torch.cat([visible_BS, visible_BS.new_ones(len(rows), 1)], dim=1)
            hidden_BD = decoder(
                input_ids=next_B[:, None],
                attention_mask=_additive(visible_BS, hidden_BD.dtype)[:, None, None, :],
                position_ids=length_B[:, None],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
            length_B = length_B + 1

    def _draw(self, rows: list[_Row], hidden_BD: Tensor, sampling: Sampling) -> Tensor:
        """Sample the next token of every row; rows that are done already keep decoding unseen until dropped."""
        logits_BV = self.model.get_output_embeddings()(hidden_BD)
        key_B = np.array([row.request.noise_key for row in rows], dtype=np.uint64)
        position_B = np.array([len(row.request.token_ids) + len(row.token_ids) for row in rows], dtype=np.uint64)
        if not bool(torch.isfinite(logits_BV).all()):
            raise SodError("sampling: the model's logits are not finite (NaN or infinite weights?)")
        token_B, logp_B = draw(logits_BV, sampling, key_B, position_B)
        for row, token, logp in zip(rows, token_B.tolist(), logp_B.tolist(), strict=True):
            if not row.done:
                row.token_ids.append(token)
                row.logps.append(logp)
                row.stopped = token in self.stop_ids
        return token_B


def _additive(visible_BS: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where visible, else the least number: right for attention that adds its mask and for one that selects by it."""
    return torch.zeros(visible_BS.shape, dtype=dtype).masked_fill(~visible_BS, torch.finfo(dtype).min)

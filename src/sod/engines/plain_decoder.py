"""One forward of a decoder on a cache of transformers': that of the model's own making, whatever it is.

Legend: B rows, N new tokens, S columns, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, final

import torch
from torch import Tensor

from sod.models.architecture import UnknownArchitectureError, named

CACHES = ("past_key_values", "cache_params")  # what families call it, in calls and in what is returned


@final
@dataclass(frozen=True)
class Decoder:
    """A model's decoder, the name that it has for its cache, and whether it is told positions."""

    model: Any
    cache: str
    takes_positions: bool

    @classmethod
    def of(cls, model: Any) -> Decoder:
        """Raises UnknownArchitectureError for one that takes no cache."""
        names = signature(model.get_decoder().forward).parameters
        found = [name for name in CACHES if name in names]
        if not found:
            raise UnknownArchitectureError("student", f"{named(model.config)} takes no cache that it can go on from")
        return cls(model, found[0], "position_ids" in names)

    def run(self, new: Sequence[Sequence[int]], cached: Sequence[int], cache: Any) -> tuple[Tensor, Any]:
        """The hidden state of the last token of each row (B x D), and the cache that holds the new tokens too.

        All rows have as many `new` tokens; of row b, `cached[b]` are in the cache, those of the longest without a gap
        on its left. The cache may be changed in place; None begins a new one.
        """
        device = self.model.device
        given: dict[str, Any] = {self.cache: cache, "use_cache": True}
        start_B1 = torch.tensor(cached, device=device)[:, None]
        if self.takes_positions:
            given["position_ids"] = start_B1 + torch.arange(len(new[0]), device=device)
        if min(cached) < max(cached):
            column_S = torch.arange(max(cached) + len(new[0]), device=device)
            given["attention_mask"] = (column_S >= max(cached) - start_B1).long()
        said = self.model.get_decoder()(input_ids=torch.tensor([list(row) for row in new], device=device), **given)
        hidden_BD: Tensor = said.last_hidden_state[:, -1]
        return hidden_BD, said[self.cache]

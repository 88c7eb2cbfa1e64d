"""The proof, before the first turn, that a model goes on from transformers' cache as its own plain forward would, and
which liberties its cache leaves the plain engine.

Proven on the loaded model, over as many tokens as cost seconds at most: a prefill and 20 tokens after it (without that
there is no sampling), several tokens on top of a cache, rows of one length together, rows of different lengths together
with empty columns on the left, and a row that is taken out of these again.

Legend: T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor

from sod.engines.plain_cache import merged, taken
from sod.engines.plain_decoder import Decoder
from sod.engines.proof import LEAST, affordable, gap_of_far_positions, some_tokens
from sod.models.architecture import UnknownArchitectureError, named
from sod.models.length import context_bounds, rope_bounds
from sod.models.memory import short_of_memory
from sod.models.projection import apart, rounding

MOST = 300  # tokens
STEPS = 20  # of these one by one
SHARE = 0.2  # of the work that the fast engine's proof may cost: this one runs about five forwards as long
SHARE_ELSEWHERE = 1000.0  # the same on a device that is that much faster


@final
@dataclass(frozen=True)
class Ways:
    """What a model's cache can do.

    `continues`: several tokens on top of what is cached. `batches`: rows of one length together; `mixes`: rows of
    different lengths together.
    """

    continues: bool
    batches: bool
    mixes: bool

    def __str__(self) -> str:
        """In words."""
        rows = "rows of any length together" if self.mixes else "only rows of one length together"
        turns = "" if self.continues else ", each turn from the first token"
        return (rows if self.batches else "row by row") + turns


def found_ways(decoder: Decoder, layer_weights: int) -> tuple[Decoder, Ways]:
    """How to call the decoder, and what its cache can do.

    Raises UnknownArchitectureError where not even tokens after a prefill are as in the plain forward.
    """
    model = decoder.model
    ends = [bound.tokens for bound in (*context_bounds(model.config), *rope_bounds(model.config))]
    share = SHARE if model.device.type == "cpu" else SHARE_ELSEWHERE
    length = min([affordable(layer_weights, MOST, share), *ends])
    proof = _Proof(decoder, some_tokens(model, length), rounding(model.dtype))
    if decoder.takes_positions:
        _refuse_changing(model, ends)
    gap = proof.gap_of_cache()
    if decoder.takes_positions and not gap <= proof.tolerance:
        # A few families count positions in a way of their own.
        proof.decoder = replace(decoder, takes_positions=False)
        gap = proof.gap_of_cache()
    if not gap <= proof.tolerance:
        differs = f"its forward on transformers' cache differs by {gap:.1%}"
        raise UnknownArchitectureError("student", f"{named(model.config)} cannot be sampled ({differs})")
    continues = _holds(proof.continues)
    batches = _holds(proof.batches)
    return proof.decoder, Ways(continues, batches, batches and _holds(lambda: proof.mixes(continues)))


def _refuse_changing(model: Any, ends: Sequence[int]) -> None:
    far = gap_of_far_positions(model, ends)
    if not far <= rounding(model.dtype) / 25:
        raise UnknownArchitectureError(
            "student", f"in {named(model.config)} the length of a text changes its first tokens (by {far:.1%})"
        )


def _holds(claim: Callable[[], bool]) -> bool:
    """Whether something is so; what fails, in whatever way, is not so."""
    try:
        return claim()
    except Exception as error:
        if short_of_memory(error):
            raise
        return False


@final
class _Proof:
    """Cached forwards of a text and their distance from its plain one."""

    def __init__(self, decoder: Decoder, token_BT: Tensor, tolerance: float) -> None:
        self.decoder, self.tolerance = decoder, tolerance
        self._ids: list[int] = token_BT[0].tolist()
        self._plain_TD = self._plain(self._ids)

    def gap_of_cache(self) -> float:
        """Most of the text at once, the rest token by token: what is done every few tokens is done in these."""
        length = len(self._ids)
        return self._followed(None, [0, *range(length - min(STEPS, length // 2), length + 1)])[1]

    def continues(self) -> bool:
        """Half of the text, then a few tokens at a time: what a forward forgets of a cache shows right behind it."""
        length, half = len(self._ids), len(self._ids) // 2
        marks = [0, half, half + 2, half + 5, length - 1, length]
        return self._followed(None, marks)[1] <= self.tolerance

    def batches(self) -> bool:
        """Two texts of one length together, a token each, and again."""
        length = min(LEAST, len(self._ids)) - 2
        other = self._ids[::-1][: length + 2]
        plains = self._plain_TD, self._plain(other)
        caches = [self.decoder.run([ids[:length]], [0], None)[1] for ids in (self._ids, other)]
        cache = merged(caches, length)
        gaps = []
        for at in (length, length + 1):
            hidden_BD, cache = self.decoder.run([[self._ids[at]], [other[at]]], [at, at], cache)
            gaps += [apart(hidden_D, plain_TD[at]) for hidden_D, plain_TD in zip(hidden_BD, plains, strict=True)]
        return max(gaps) <= self.tolerance

    def mixes(self, continues: bool) -> bool:
        """The text and its first third together, two tokens each; then the third goes on by itself.

        The other way round as well: what is longest may come last.
        """
        length = len(self._ids) - 2
        return all(self._mix(ends, continues) <= self.tolerance for ends in ([length, length // 3], [7, length]))

    def _mix(self, ends: list[int], continues: bool) -> float:
        caches = [self.decoder.run([self._ids[:end]], [0], None)[1] for end in ends]
        cache = merged(caches, max(ends))
        gaps = []
        for step in (0, 1):
            cached = [end + step for end in ends]
            hidden_BD, cache = self.decoder.run([[self._ids[at]] for at in cached], cached, cache)
            gaps += [apart(hidden_D, self._plain_TD[at]) for hidden_D, at in zip(hidden_BD, cached, strict=True)]
        row = ends.index(min(ends))
        length = ends[row] + 2
        alone = taken(cache, [row], length)
        _, gap = self._followed(alone, [length, length + 3] if continues else [length, length + 1])
        return max(*gaps, gap)

    def _followed(self, cache: Any, marks: list[int]) -> tuple[Any, float]:
        """Run the text from mark to mark: the cache, and the largest gap at a mark."""
        gaps = []
        for start, end in pairwise(marks):
            hidden_BD, cache = self.decoder.run([self._ids[start:end]], [start], cache)
            gaps.append(apart(hidden_BD[0], self._plain_TD[end - 1]))
        return cache, max(gaps)

    def _plain(self, ids: list[int]) -> Tensor:
        decoder, device = self.decoder.model.get_decoder(), self.decoder.model.device
        hidden_TD: Tensor = decoder(input_ids=torch.tensor([ids], device=device), use_cache=False).last_hidden_state[0]
        return hidden_TD

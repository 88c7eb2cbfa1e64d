"""The proof, before the first turn, that the fast engine's cached forward is the model's own.

Two things are proven, on the loaded model. With the cache: a prefill, more tokens on top of cached ones, and a decoded
token give what one plain forward gives, over up to 1,025 tokens, as far as these cost no more than seconds. And
without: at the far end of the lengths that the configuration allows, a token's hidden state does not depend on how
long the text goes on. The second needs no long forward, as positions can be given: its last token stands far away.

Legend: T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sod.models.architecture import UnknownArchitectureError, named
from sod.models.length import context_bounds, rope_bounds, window_bounds
from sod.models.projection import apart, rounding

LEAST, MOST = 24, 1025  # tokens; what is local is often so within 1,024
FLOP = 2e10  # a second or two of a slow CPU: all of it at 10M weights, 74 tokens at 135M, the least from 0.4B on

LastHidden = Callable[[list[int], int], Tensor]
"""The engine's hidden state (D) of the last of these tokens, of which so many are cached by earlier calls."""


def prove(model: Any, last_hidden: LastHidden, layer_weights: int) -> None:
    """Raises UnknownArchitectureError where the fast engine's forward or the far end of the context is not as it
    should be.
    """
    cached = _gap_of_cache(model, last_hidden, layer_weights)
    if not cached <= rounding(model.dtype):
        raise UnknownArchitectureError(
            "student",
            f"the attention of {named(model.config)} is not plain (the fast engine's forward differs by {cached:.1%})",
        )
    far = gap_of_far_positions(model, _ends(model.config))
    # Both forwards have one shape, so that they round alike: far less than above is ample.
    if not far <= rounding(model.dtype) / 25:
        raise UnknownArchitectureError(
            "student", f"in {named(model.config)} the length of a text changes its first tokens (by {far:.1%})"
        )


def affordable(layer_weights: int, most: int, share: float) -> int:
    """How many tokens a proof runs at once, of `most`, with a share of the work that it may cost."""
    return max(LEAST, min(most, int(share * FLOP / (2 * layer_weights))))


def _gap_of_cache(model: Any, last_hidden: LastHidden, layer_weights: int) -> float:
    length = min([affordable(layer_weights, MOST, 1.0), *_ends(model.config)])
    token_BT = some_tokens(model, length)
    plain_TD = model.get_decoder()(input_ids=token_BT, use_cache=False).last_hidden_state[0]
    ids = token_BT[0].tolist()
    steps = ((0, length // 2), (length // 2, length - 1), (length - 1, length))
    return max(apart(last_hidden(ids[:end], cached), plain_TD[end - 1]) for cached, end in steps)


def gap_of_far_positions(model: Any, ends: Sequence[int]) -> float:
    """How far the hidden states of tokens move when the last one of the text stands at the end of the context.

    `ends`: where texts of the model end, in tokens, for one reason or another.
    """
    length = min([LEAST, *ends])
    token_BT = some_tokens(model, length)
    # Given, as transformers would take a jump in the positions for the beginning of another text in the same row.
    seen_BT = torch.ones(1, length, dtype=torch.int64, device=token_BT.device)
    hidden = []
    for last in (length, min(ends, default=length)):
        position_BT = torch.arange(length, device=token_BT.device)[None].clone()
        position_BT[0, -1] = last - 1
        hidden.append(
            model.get_decoder()(
                input_ids=token_BT, position_ids=position_BT, attention_mask=seen_BT, use_cache=False
            ).last_hidden_state[0, :-1]
        )
    return apart(hidden[1], hidden[0])


def _ends(config: Any) -> list[int]:
    """Where texts of the model end, in tokens, for one reason or another."""
    return [bound.tokens for bound in (*context_bounds(config), *rope_bounds(config), *window_bounds(config))]


def some_tokens(model: Any, length: int) -> Tensor:
    """A row of tokens that tell a text from another. Shape 1 x T."""
    return (torch.arange(3, 3 + length, device=model.device) * 7919 % int(model.config.vocab_size))[None]

"""The proof, before the first turn, that an engine's cached forward is the model's own.

Two things are proven, on the loaded model. With the cache: a prefill, more tokens on top of cached ones, and a decoded
token give what one plain forward gives, over up to 1,025 tokens, as far as these cost no more than seconds. And
without: at the far end of the lengths that the configuration allows, a token's hidden state does not depend on how
long the text goes on. The second needs no long forward, as positions can be given: its last token stands far away.

Legend: T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sod.models.architecture import USE_ANOTHER, named
from sod.models.length import context_bounds, rope_bounds, window_bounds
from sod.models.projection import apart, rounding
from sod.records import SodError

LEAST, MOST = 24, 1025  # tokens; what is local is often so within 1,024
FLOP = 2e10  # a second or two of a slow CPU: all of it at 10M weights, 74 tokens at 135M, the least from 0.4B on

LastHidden = Callable[[list[int], int], Tensor]
"""The engine's hidden state (D) of the last of these tokens, of which so many are cached by earlier calls."""


def prove(model: Any, last_hidden: LastHidden, layer_weights: int) -> None:
    """Raises SodError where the engine's forward or the far end of the context is not as it should be."""
    cached = _gap_of_cache(model, last_hidden, layer_weights)
    if not cached <= rounding(model.dtype):
        raise SodError(
            f"student: the attention of {named(model.config)} is not supported by the torch engine "
            f"(its cached forward differs by {cached:.1%}); {USE_ANOTHER}"
        )
    far = _gap_of_far_positions(model)
    # Both forwards have one shape, so that they round alike: far less than above is ample.
    if not far <= rounding(model.dtype) / 25:
        raise SodError(
            f"student: in {named(model.config)} the length of a text changes its first tokens (by {far:.1%}), which "
            f"the torch engine does not support; {USE_ANOTHER}"
        )


def _gap_of_cache(model: Any, last_hidden: LastHidden, layer_weights: int) -> float:
    affordable = max(LEAST, min(MOST, int(FLOP / (2 * layer_weights))))
    length = min([affordable, *_ends(model.config)])
    token_BT = _some_tokens(model, length)
    plain_TD = model.get_decoder()(input_ids=token_BT, use_cache=False).last_hidden_state[0]
    ids = token_BT[0].tolist()
    steps = ((0, length // 2), (length // 2, length - 1), (length - 1, length))
    return max(apart(last_hidden(ids[:end], cached), plain_TD[end - 1]) for cached, end in steps)


def _gap_of_far_positions(model: Any) -> float:
    """How far the hidden states of tokens move when the last one of the text stands at the end of the context."""
    length = min([LEAST, *_ends(model.config)])
    token_BT = _some_tokens(model, length)
    seen_BHTT = torch.ones(1, 1, length, length, dtype=torch.bool, device=token_BT.device).tril()
    hidden = []
    for last in (length, min(_ends(model.config), default=length)):
        position_BT = torch.arange(length, device=token_BT.device)[None].clone()
        position_BT[0, -1] = last - 1
        hidden.append(
            model.get_decoder()(
                input_ids=token_BT, position_ids=position_BT, attention_mask=seen_BHTT, use_cache=False
            ).last_hidden_state[0, :-1]
        )
    return apart(hidden[1], hidden[0])


def _ends(config: Any) -> list[int]:
    """Where texts of the model end, in tokens, for one reason or another."""
    return [bound.tokens for bound in (*context_bounds(config), *rope_bounds(config), *window_bounds(config))]


def _some_tokens(model: Any, length: int) -> Tensor:
    return (torch.arange(3, 3 + length, device=model.device) * 7919 % int(model.config.vocab_size))[None]

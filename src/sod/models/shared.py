"""Tokens that several rows begin with alike are run once.

Samples of one prompt share it, all prompts share what the chat template puts in front, and samples often begin alike
as well. A decoder says the same at the same token after the same tokens, so each is run for all rows that have it;
only attention sees whole rows. Gradients are those of the separate rows, added up.

Legend: B rows, T tokens (padded), S different tokens of all rows together, H query heads, G key heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from sod.models.architecture import in_one_line, refuse_unsampled
from sod.models.attention import NAME
from sod.models.fused import causal_attention
from sod.models.length import rope_bounds, window_bounds
from sod.models.projection import apart, rounding
from sod.objective.batch import TokenBatch
from sod.records import SodError

WORTHWHILE = 0.95  # of the padded tokens: what is spread over the rows again costs time as well


@final
@dataclass(frozen=True)
class SharedRows:
    """Rows whose tokens are numbered anew: the same number for the same token after the same tokens.

    at_BT        int64: the number of each token; 0 at padding, which no real token sees
    first_S      int64: where in the flattened rows the token of each number first stands
    token_1S     int64
    position_1S  int64: the token's position in its rows
    """

    at_BT: Tensor
    first_S: Tensor
    token_1S: Tensor
    position_1S: Tensor

    def to(self, device: torch.device) -> SharedRows:
        """A copy on a device."""
        columns = (self.at_BT, self.first_S, self.token_1S, self.position_1S)
        return SharedRows(*(column.to(device) for column in columns))

    @property
    def tokens(self) -> int:
        """How many different tokens there are."""
        return len(self.first_S)

    def attend(self, query_1HSD: Tensor, key_1GSD: Tensor, value_1GSD: Tensor, scale: float) -> Tensor:
        """Causal attention within each row, from and to tokens by number. Shape 1 x S x H x D."""
        query_BHTD, key_BGTD, value_BGTD = map(self._in_rows, (query_1HSD, key_1GSD, value_1GSD))
        mixed_BHTD = causal_attention(query_BHTD, key_BGTD, value_BGTD, scale)
        return mixed_BHTD.transpose(1, 2).flatten(0, 1).index_select(0, self.first_S)[None]

    def _in_rows(self, x_1HSD: Tensor) -> Tensor:
        """What belongs to tokens by number, at every token of the rows. Shape B x H x T x D."""
        x_SHD = x_1HSD[0].transpose(0, 1)
        x_BTHD = x_SHD.index_select(0, self.at_BT.flatten()).view(*self.at_BT.shape, *x_SHD.shape[1:])
        return x_BTHD.transpose(1, 2)


def shared_rows(token_BT: Tensor, length_B: Tensor) -> SharedRows:
    """Number the tokens of right-padded rows."""
    rows, width = token_BT.shape
    real_BT = torch.arange(width) < length_B[:, None]
    texts = [row[:length] for row, length in zip(token_BT.tolist(), length_B.tolist(), strict=True)]
    # In alphabetical order a row shares most with the one before it.
    order_B = torch.tensor(sorted(range(rows), key=texts.__getitem__))
    token, real = token_BT[order_B], real_BT[order_B]
    same_BT = torch.zeros(rows, width, dtype=torch.bool)
    same_BT[1:] = ((token[1:] == token[:-1]) & real[1:] & real[:-1]).cumprod(dim=1) > 0
    new_BT = real & ~same_BT
    number_BT = torch.where(new_BT, new_BT.flatten().cumsum(0).view(rows, width) - 1, -1)
    at_BT = torch.zeros(rows, width, dtype=torch.int64)
    # A shared token has the latest number of its column: numbers grow from row to row.
    at_BT[order_B] = number_BT.cummax(dim=0).values.masked_fill(~real, 0)
    place_BT = order_B[:, None] * width + torch.arange(width)
    first_S = place_BT[new_BT]
    return SharedRows(at_BT, first_S, token_BT.flatten()[first_S][None], (first_S % width)[None])


def shared_hidden(model: Any, rows: SharedRows) -> Tensor:
    """What the decoder says at every token by number. Shape S x D, on the model's device; differentiable."""
    device = model.get_output_embeddings().weight.device
    rows = rows.to(device)
    said = model.get_decoder()(
        input_ids=rows.token_1S,
        position_ids=rows.position_1S,
        attention_mask=rows.token_1S[:, None, None, :],  # four dimensions: taken as it is, and nobody reads it
        use_cache=False,
        shared=rows,
    )
    hidden_SD: Tensor = said.last_hidden_state[0]
    return hidden_SD


def shared_before_actions(model: Any, batch: TokenBatch) -> Tensor | None:
    """What the decoder says before each action token, in row-major order, every different token run once.

    Shape N x D, on the model's device; differentiable. None where sharing saves little or the model cannot.
    """
    if not shares(model, batch.token_BT.shape[1]):
        return None
    rows = shared_rows(batch.token_BT, batch.length_B)
    if rows.tokens > WORTHWHILE * batch.token_BT.numel():
        return None
    hidden_SD = shared_hidden(model, rows)
    # Token t is predicted at position t - 1; position 0 is never an action (a prompt comes first).
    before_N = rows.at_BT[:, :-1][batch.turn_BT[:, 1:] > 0]
    return hidden_SD.index_select(0, before_N.to(hidden_SD.device))


def shares(model: Any, tokens: int) -> bool:
    """Whether a model's decoder can run rows of up to so many tokens this way.

    Its attention is then ours: an engine that samples with it has proven more than is needed here, or `let_share` this.
    """
    bounds = [*rope_bounds(model.config), *window_bounds(model.config)]
    return model.config._attn_implementation == NAME and all(tokens <= bound.tokens for bound in bounds)


def let_share(model: Any) -> None:
    """From now on tokens are shared wherever the model is scored or trained, if that is the same: tried on a few.

    It is where attention is plain causal attention over the whole row and positions enter by number alone; any other
    model stays as it is.
    """
    kind = model.config._attn_implementation
    if kind != "sdpa":
        return
    try:
        refuse_unsampled(model.config, "model")
        with in_one_line(model.config, "model", "cannot share tokens"), torch.inference_mode():
            model.set_attn_implementation(NAME)
            same = _gap(model) <= rounding(model.dtype)
    except SodError:  # a forward of another kind
        same = False
    if not same:
        model.set_attn_implementation(kind)


def _gap(model: Any) -> float:
    """How far the hidden states of three short rows are from those of the plain forward, as a share of them."""
    ids = torch.arange(12) * 7919 % int(model.config.vocab_size)
    token_BT = torch.stack([ids, torch.cat([ids[:5], ids[:7]]), torch.cat([ids[:9], ids[:3]])])
    rows = shared_rows(token_BT, torch.tensor([12, 12, 10]))
    shared_BTD = shared_hidden(model, rows)[rows.at_BT.to(model.device)]
    plain_BTD = model.get_decoder()(input_ids=token_BT.to(model.device), use_cache=False).last_hidden_state
    return apart(shared_BTD[:, :10], plain_BTD[:, :10])

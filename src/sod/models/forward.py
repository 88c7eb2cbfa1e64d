"""One forward of a decoder over a batch's rows, as far as its action tokens need it: padded, or packed where the
architecture allows it and it saves time.

Legend: B trajectories, T tokens (padded), S tokens of all rows together, N action tokens, D hidden size.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sod.models.architecture import in_one_line, unusual_attention
from sod.models.attention import NAME
from sod.models.device import moved
from sod.models.length import rope_bounds, window_bounds
from sod.models.packed import PACKED, PackedRows, packed_rows, worth_packing
from sod.models.projection import apart, rounding
from sod.models.sharded import computing_dtype
from sod.models.shared import shared_hidden, shared_rows, shared_rows_of
from sod.models.spread import as_packed, as_padded, hidden_of_share
from sod.models.team import team_of
from sod.objective.batch import TokenBatch
from sod.records import SodError

PROBED = (7, 12, 3)  # tokens of the rows on which packing is proven


def hidden_before_actions(model: Any, batch: TokenBatch) -> Tensor:
    """What the decoder says before each action token, in row-major order. Shape N x D, on the model's device.

    Of a model whose rows are cut over a team of ranks that is for this rank's share of the action tokens alone
    (`sod.models.team`). Raises SodError for rows that cannot be cut.

    Differentiable where gradients are enabled. Where it saves time and is proven for the model (`packs`), tokens that
    rows begin with alike are run once (`sod.models.shared`, on a CPU), or rows are packed behind one another
    (`sod.models.packed`); in float32 these differ from padded rows by rounding.
    """
    action_BT = batch.turn_BT > 0
    if team_of(model).size > 1:
        return _hidden_of_team(model, batch)
    ours = _within_windows(model, batch) and packs(model)
    shared = shared_rows_of(model, batch) if ours else None
    if shared is not None:
        # Token t is predicted at position t - 1; position 0 is never an action (a prompt comes first).
        at_N = shared.at_BT[:, :-1][action_BT[:, 1:]]
        return shared_hidden(model, shared).index_select(0, moved(at_N, model.device))
    if ours and worth_packing(batch.length_B, model.device, computing_dtype(model)):
        hidden_SD = packed_hidden(model, packed_rows(batch.token_BT, batch.length_B))
        first_B = batch.length_B.cumsum(0) - batch.length_B
    else:
        hidden_SD = padded_hidden(model, batch.token_BT).flatten(0, 1)
        first_B = torch.arange(len(batch)) * batch.token_BT.shape[1]
    row_N, at_N = torch.nonzero(action_BT, as_tuple=True)
    return hidden_SD[moved(first_B[row_N] + at_N - 1, model.device)]


def _hidden_of_team(model: Any, batch: TokenBatch) -> Tensor:
    """`hidden_before_actions` of this rank's share, rows cut over its team."""
    if not _within_windows(model, batch):
        raise SodError(
            f"parallel.sequence: a row of {int(batch.length_B.max()):,} tokens is longer than the model attends to as "
            "a whole; set parallel.sequence=1"
        )
    row_N, at_N = torch.nonzero(batch.turn_BT > 0, as_tuple=True)
    if packs(model) and worth_packing(batch.length_B, model.device, computing_dtype(model)):
        first_B = batch.length_B.cumsum(0) - batch.length_B
        packed = as_packed(packed_rows(batch.token_BT, batch.length_B), model.device)
        return hidden_of_share(model, packed, torch.zeros_like(row_N), first_B[row_N] + at_N - 1)
    return hidden_of_share(model, as_padded(batch.token_BT), row_N, at_N - 1)


def padded_hidden(model: Any, token_BT: Tensor) -> Tensor:
    """What the decoder says at every token. Shape B x T x D, on the model's device; differentiable.

    Right padding needs no attention mask: under causal attention no real token sees what follows it.
    """
    hidden_BTD: Tensor = model.get_decoder()(input_ids=moved(token_BT, model.device), use_cache=False).last_hidden_state
    return hidden_BTD


def packed_hidden(model: Any, rows: PackedRows) -> Tensor:
    """What the decoder says at every token of packed rows. Shape S x D, on the model's device; differentiable.

    The model must be one that `packs`.
    """
    device = model.device
    token_1S = moved(rows.token_1S, device)
    said = model.get_decoder()(
        input_ids=token_1S,
        position_ids=moved(rows.position_1S, device),
        attention_mask=token_1S[:, None, None, :],  # four dimensions: taken as it is, and packed attention ignores it
        use_cache=False,
        cu_seq=moved(rows.cu_seq, device),
        longest=rows.longest,
    )
    hidden_SD: Tensor = said.last_hidden_state[0]
    return hidden_SD


def packs(model: Any) -> bool:
    """Whether packed and shared rows of the model are what padded ones are. Proven at the first call, on a few tokens.

    From then on the attention of a model that packs is `attention.attend`.
    """
    if model not in _proven:
        _proven[model] = unusual_attention(model.config) is None and _proves_to_pack(model)
    return _proven[model]


_proven: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def take_as_proven(model: Any) -> None:
    """From now on `packs` says of a model without contents, whose values prove nothing, whether shared rows run."""
    _proven[model] = unusual_attention(model.config) is None and _runs_shared(model)


def _runs_shared(model: Any) -> bool:
    token_BT = torch.tensor([[3, 4, 5], [3, 4, 6]])
    try:
        with in_one_line(model.config, "packing", "cannot be packed"), torch.no_grad():
            shared_hidden(model, shared_rows(token_BT, torch.tensor([3, 3])))
    except SodError:
        return False
    return True


def _within_windows(model: Any, batch: TokenBatch) -> bool:
    """Whether no row is so long that its tokens' attention depends on more than the tokens before them."""
    longest = int(batch.length_B.max())
    return all(longest <= bound.tokens for bound in (*rope_bounds(model.config), *window_bounds(model.config)))


def _proves_to_pack(model: Any) -> bool:
    """The proof, in eval mode; it leaves the model its attention, or that of a model that packs."""
    before = model.config._attn_implementation
    dropping = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with in_one_line(model.config, "packing", "cannot be packed"), torch.no_grad():
            proven = _proves(model)
    except SodError:
        proven = False
    for module in dropping:
        module.training = True
    if before != NAME:
        model.set_attn_implementation(PACKED if proven else before)
    return proven


def _proves(model: Any) -> bool:
    """Packed and shared rows give what padded ones do, and other tokens in a row leave the others as they are."""
    length_B = torch.tensor(PROBED)
    number_BT = torch.arange(3, 3 + len(PROBED) * max(PROBED)).view(len(PROBED), -1)
    token_BT = number_BT * 7919 % int(model.config.vocab_size)
    token_BT[2, :2] = token_BT[1, :2]  # two rows that begin alike
    other_BT = token_BT.clone()
    other_BT[0] = token_BT[1]
    real_BT = torch.arange(max(PROBED)) < length_B[:, None]
    # Before attention is changed: what the model made of padded rows so far is what is to be met.
    padded_SD = padded_hidden(model, token_BT)[moved(real_BT, model.device)].detach()
    model.set_attn_implementation(NAME)
    packed_SD, other_SD = (
        packed_hidden(model, packed_rows(ids_BT, length_B)).detach() for ids_BT in (token_BT, other_BT)
    )
    shared = shared_rows(token_BT, length_B)
    shared_SD = shared_hidden(model, shared)[moved(shared.at_BT[real_BT], model.device)].detach()
    same = max(apart(other, padded_SD) for other in (packed_SD, shared_SD)) <= rounding(model.dtype)
    # Both have one shape, so that they round alike.
    alone = apart(other_SD[PROBED[0] :], packed_SD[PROBED[0] :]) <= rounding(model.dtype) / 25
    return same and alone

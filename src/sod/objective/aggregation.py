"""Loss aggregation: the weight of each action token in the loss of a mini-batch.

Weights are computed once for the whole mini-batch, before it is split, and add up to 1: how it is split into
micro-batches or ranks cannot change the gradient.

Legend: B trajectories, T tokens, K turns.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

LossAggregation = Literal["token-mean", "seq-mean-token-mean", "turn-mean"]


def loss_weights(turn_BT: Tensor, loss_aggregation: LossAggregation = "token-mean") -> Tensor:
    """The factor of each token's loss; 0 at context. Shape B x T, float32.

    `token-mean` gives every action token the same weight. `seq-mean-token-mean` takes the mean over the tokens of a
    trajectory, then over trajectories. `turn-mean` takes the mean over the tokens of a turn, then over all turns of
    the mini-batch. Trajectories and turns without action tokens do not count.
    Raises ValueError for a loss aggregation that does not exist.
    """
    action_BT = turn_BT > 0
    if loss_aggregation == "token-mean":
        loss_weight_BT = action_BT / max(1, int(action_BT.sum()))
    elif loss_aggregation == "seq-mean-token-mean":
        count_B1 = action_BT.sum(dim=1, keepdim=True)
        loss_weight_BT = action_BT / (count_B1.clamp(min=1) * max(1, int((count_B1 > 0).sum())))
    elif loss_aggregation == "turn-mean":
        count_BK = torch.zeros(turn_BT.shape[0], int(turn_BT.max()) + 1, dtype=torch.int64)
        count_BK.scatter_add_(1, turn_BT, action_BT.to(torch.int64))
        turns = max(1, int((count_BK > 0).sum()))
        loss_weight_BT = action_BT / (count_BK.clamp(min=1).gather(1, turn_BT) * turns)
    else:
        raise ValueError(f"loss_aggregation {loss_aggregation!r} is none of {', '.join(get_args(LossAggregation))}")
    return loss_weight_BT.to(torch.float32)

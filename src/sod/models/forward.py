"""One forward of a decoder over a batch's rows, as far as its action tokens need it.

Legend: B trajectories, T tokens, N action tokens, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sod.models.device import moved
from sod.objective.batch import TokenBatch


def hidden_before_actions(model: Any, batch: TokenBatch) -> Tensor:
    """What the decoder says before each action token, in row-major order. Shape N x D, on the model's device.

    Differentiable where gradients are enabled. Right padding needs no attention mask: under causal attention no real
    token sees what follows it.
    """
    hidden_BTD: Tensor = model.get_decoder()(
        input_ids=moved(batch.token_BT, model.device), use_cache=False
    ).last_hidden_state
    # Token t is predicted at position t - 1; position 0 is never an action (a prompt comes first). Looked up before
    # anything crosses: on the device it would have to be waited for.
    before_N = torch.nonzero((batch.turn_BT > 0).flatten()).flatten() - 1
    return hidden_BTD.flatten(0, 1)[moved(before_N, model.device)]

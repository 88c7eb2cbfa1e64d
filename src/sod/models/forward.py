"""One forward of a decoder over a batch's rows, as far as its action tokens need it.

Legend: B trajectories, T tokens, N action tokens, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sod.objective.batch import TokenBatch


def hidden_before_actions(model: Any, batch: TokenBatch) -> Tensor:
    """What the decoder says before each action token, in row-major order. Shape N x D, on the model's device.

    Differentiable where gradients are enabled. Right padding needs no attention mask: under causal attention no real
    token sees what follows it.
    """
    device = model.get_output_embeddings().weight.device
    hidden_BTD: Tensor = model.get_decoder()(input_ids=batch.token_BT.to(device), use_cache=False).last_hidden_state
    # Token t is predicted at position t - 1; position 0 is never an action (a prompt comes first).
    before_N = torch.nonzero((batch.turn_BT > 0).flatten()).flatten() - 1
    return hidden_BTD.flatten(0, 1)[before_N.to(device)]

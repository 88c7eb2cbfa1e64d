"""Log-probabilities of given tokens, chunked over the vocabulary projection.

No tensor of `tokens x vocabulary` floats ever covers more than one chunk, forward or backward: with
gradients each chunk is recomputed in the backward pass.

Legend: B trajectories, T tokens, N action tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sod.objective.batch import TokenBatch
from sod.records import SodError

CHUNK_LOGITS = 2**23  # logits per projection: 32 MB of float32, several times over in the backward pass


def action_logps(model: Any, batch: TokenBatch, temperature: float = 1.0) -> Tensor:
    """Log-probabilities (nats, float32, B x T) of the batch's action tokens; 0 at context.

    Right padding needs no attention mask: under causal attention no real token sees what follows it.
    Differentiable when gradients are enabled.
    """
    hidden_BTD = model.get_decoder()(input_ids=batch.token_BT, use_cache=False).last_hidden_state
    action_BT = batch.turn_BT > 0
    # Token t is predicted at position t - 1; position 0 is never an action (a prompt comes first).
    hidden_ND = hidden_BTD[:, :-1][action_BT[:, 1:]]
    target_N = batch.token_BT[action_BT]
    head = model.get_output_embeddings()
    chunk = max(64, CHUNK_LOGITS // int(model.config.vocab_size))
    parts = []
    for hidden, target in zip(hidden_ND.split(chunk), target_N.split(chunk), strict=True):
        if torch.is_grad_enabled():
            parts.append(checkpoint(_project, head, hidden, target, temperature, use_reentrant=False))
        else:
            parts.append(_project(head, hidden, target, temperature))
    logp_BT = torch.zeros(batch.token_BT.shape, dtype=torch.float32)
    return logp_BT.masked_scatter(action_BT, torch.cat(parts)) if parts else logp_BT


def score(model: Any, batch: TokenBatch, micro_batch_tokens: int, temperature: float = 1.0) -> Tensor:
    """`action_logps` without gradients, micro-batch by micro-batch. Shape B x T."""
    out_BT = torch.zeros(batch.token_BT.shape, dtype=torch.float32)
    with torch.inference_mode():
        for index in batch.micro_indices(micro_batch_tokens):
            micro = batch.rows(index)
            out_BT[torch.tensor(index), : micro.token_BT.shape[1]] = action_logps(model, micro, temperature)
    return out_BT


def _project(head: Any, hidden_ND: Tensor, target_N: Tensor, temperature: float) -> Tensor:
    logits_NV = head(hidden_ND).float()
    if temperature != 1.0:
        logits_NV = logits_NV / temperature
    picked: Tensor = logits_NV.gather(1, target_N[:, None]).squeeze(1) - logits_NV.logsumexp(dim=1)
    return picked


def check_projection(model: Any, where: str) -> None:
    """Prove on a few tokens that decoder plus output embedding is the model's whole forward.

    Some architectures scale or cap their logits after the projection; scoring them in chunks this way
    would be silently wrong. Raises SodError naming `where`.
    """
    token_BT = torch.arange(4)[None] % int(model.config.vocab_size)
    batch = TokenBatch(
        token_BT=token_BT,
        turn_BT=torch.tensor([[0, 1, 1, 1]]),
        length_B=torch.tensor([4]),
        group_B=torch.zeros(1, dtype=torch.int64),
        reward_B=torch.zeros(1),
        sampled_BT=torch.zeros(1, 4),
    )
    with torch.inference_mode():
        ours_BT = action_logps(model, batch)
        full_BTV = model(input_ids=token_BT, use_cache=False).logits.float().log_softmax(-1)
    theirs_BT = full_BTV[:, :-1].gather(2, token_BT[:, 1:, None]).squeeze(2)
    if not bool(torch.isfinite(full_BTV).all()):
        raise SodError(f"{where}: the model's output is not finite (NaN or infinite weights?)")
    worst = float((ours_BT[:, 1:] - theirs_BT).abs().max())
    if not worst < 0.05:
        raise SodError(
            f"{where}: architecture {model.config.model_type!r} changes its logits after the output projection "
            f"(off by {worst:.3f} nats), which chunked scoring does not support"
        )
